"""Pre-trained weights as a start: what a source holds goes into a model, and a report says what went where.

Keras loads swapped layers of the same shape, the first layers of a deeper model and NaN without a word. Here a weight
is loaded if it is certain which one is meant, and everything else is said, before anything is changed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from modelkeep.errors import UsageError
from modelkeep.frameworks import keras as keras_door
from modelkeep.frameworks import keras_arrays
from modelkeep.frameworks.mismatch import Spec
from modelkeep.model.lineage import remember
from modelkeep.model.transfer.choosing import Choice, Patterns, Texts, sizes_of
from modelkeep.model.transfer.matching import Matches, Source, Target, match
from modelkeep.model.transfer.opening import Opened
from modelkeep.model.transfer.report import Entry, TransferReport
from modelkeep.model.transfer.resizing import Resize, resized
from modelkeep.model.transfer.sources import Piece, Rename, dropped, pieces
from modelkeep.model.transfer.targets import targets_of

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a caller asks of a transfer; `modelkeep.transfer` says what each means."""

    rename: Rename | None = None
    only: Texts | None = None
    skip: Texts = ()
    freeze: bool | Texts = False
    adapt: bool | Mapping[str, Resize] = True
    partial: bool = False


def transfer(model: Any, source: Opened, plan: Plan) -> TransferReport:
    """Load weights into a built Keras model, by name, else by the only way in which their shapes fit.

    Layers that have taken a weight remember where it comes from (`modelkeep.model.lineage`).

    Raises:
        StateMismatch: a weight that was neither skipped nor loaded; the model is as it was.
        NotFound: a pattern that matches nothing in the model.
        UsageError: a model that is not built, or a source, rename or adapt that cannot be used.
    """
    if not isinstance(model, keras.layers.Layer) or not model.built:
        raise UsageError("transfer needs a Keras model that is built; call it once, or give it an Input")
    sizes = dict(sizes_of(plan.adapt))
    choice = Choice(Patterns("only", plan.only), Patterns("skip", plan.skip), plan.adapt is not False, sizes)
    targets, layers = targets_of(model, choice)
    taken = pieces(source.tensors, plan.rename)
    matches = match(targets, layers, taken)
    work = _Work(choice)
    for target in targets:
        work.look_at(target, matches)
    work.keep_layers_whole(targets)
    to_freeze = _to_freeze(plan.freeze, targets, layers, work)
    report = work.report(_unused(taken, dropped(source.tensors, taken), matches), to_freeze)
    if not plan.partial:
        report.raise_for_missing()
    for variable, array in work.writes.values():
        keras_arrays.write(variable, array)
    for path in to_freeze:
        layers[path].trainable = False
    keras_door.settle(model)
    if source.origin:
        remember({target.owner for target in targets if target.path in work.writes}, source.origin)
    return report


@dataclass(slots=True)
class _Work:
    """What will be written, and what the report will say."""

    choice: Choice
    entries: dict[str, tuple[str, Entry]] = field(default_factory=dict)
    writes: dict[str, tuple[Any, Array]] = field(default_factory=dict)

    def look_at(self, target: Target, matches: Matches) -> None:
        """Decide about one weight; its tensors are read here."""
        found = matches.found.get(target.path)
        if not target.wanted:
            kind, entry = "skipped", Entry(target.path, wanted=str(target.spec))
        elif found is None:
            reason = matches.reasons.get(target.path, "not in the source")
            kind, entry = "missing", Entry(target.path, wanted=str(target.spec), note=reason)
        else:
            kind, note = self._take(target, found)
            specs = " and ".join(str(piece.spec) for piece in found.pieces)
            names = tuple(piece.name for piece in found.pieces)
            how = "" if found.how == "name" else f"by {found.how}"
            remark = found.remark if kind in ("loaded", "adapted") else ""
            text = "; ".join(part for part in (how, note, remark) if part)
            entry = Entry(target.path, names, str(target.spec), specs, text)
        self.entries[target.path] = (kind, entry)

    def _take(self, target: Target, found: Source) -> tuple[str, str]:
        if found.change is not None and not self.choice.layouts:
            return "mismatched", f"fits only when adapted ({found.note}), and adapt is False"
        how = self.choice.resize(target.path)
        shape = found.shape()
        if shape is None:
            return "mismatched", f"is not what torch has here, so it cannot be adapted ({found.note})"
        if shape != target.spec.shape and how is None:  # said without reading it
            return "mismatched", f"is {list(shape)} once adapted" if found.change is not None else ""
        arrays = [piece.read() for piece in found.pieces]
        if not all(_finite(array) for array in arrays):
            return "refused", "holds NaN or infinite values"
        array, notes = (found.change(*arrays), [found.note]) if found.change is not None else (arrays[0], [])
        if array.shape != target.spec.shape:
            fitted = resized(how, array, keras_arrays.read(target.variable, copy=True)) if how is not None else None
            if fitted is None:
                return "mismatched", f"{how!r} does not lead to this shape"
            array, note = fitted
            notes.append(note)
        cast = _cast(array, target.spec, self.choice.layouts)
        if cast is None:
            return "mismatched", f"{array.dtype} does not become {target.spec.dtype}"
        if cast.dtype != array.dtype:
            notes.append(f"from {array.dtype}")
            if not _finite(cast):
                return "refused", f"holds values that {cast.dtype} cannot"
        self.writes[target.path] = (target.variable, cast)
        return ("adapted", "; ".join(notes)) if notes else ("loaded", "")

    def keep_layers_whole(self, targets: Iterable[Target]) -> None:
        """Half of a Dense or an LSTM is of no use: where one weight does not fit, its layer stays as it was."""
        broken = {
            id(target.owner): target.path
            for target in targets
            if self.entries[target.path][0] in ("mismatched", "refused")
            and type(target.owner).__module__.startswith("keras.src.layers.")
        }
        for target in targets:
            reason = broken.get(id(target.owner))
            if reason is not None and self.writes.pop(target.path, None) is not None:
                old = self.entries[target.path][1]
                note = f"left as it was, since {reason.rpartition('/')[2]} of its layer could not be loaded"
                self.entries[target.path] = ("missing", Entry(old.path, old.sources, old.wanted, old.found, note))

    def report(self, unused: tuple[Entry, ...], frozen: tuple[str, ...]) -> TransferReport:
        def of(kind: str) -> tuple[Entry, ...]:
            return tuple(entry for what, entry in self.entries.values() if what == kind)

        return TransferReport(
            loaded=of("loaded"),
            adapted=of("adapted"),
            mismatched=of("mismatched"),
            missing=of("missing"),
            refused=of("refused"),
            skipped=of("skipped"),
            unused=unused,
            frozen=frozen,
        )


def _finite(array: Array) -> bool:
    try:
        ml_dtypes.finfo(array.dtype)
    except ValueError:
        return True  # whole numbers, text
    return bool(np.isfinite(array).all())


def _cast(array: Array, spec: Spec, layouts: bool) -> Array | None:
    """The array in the model's dtype: another precision, or another width where every value survives."""
    if array.dtype == spec.dtype:
        return array
    if array.dtype.newbyteorder("=") == spec.dtype:
        return array.astype(spec.dtype)
    floating = _is_float(array.dtype) and _is_float(spec.dtype)
    if not layouts or not (floating or (array.dtype.kind in "iu" and spec.dtype.kind in "iu")):
        return None
    with np.errstate(over="ignore"):
        cast = array.astype(spec.dtype)
    return cast if floating or np.array_equal(cast, array) else None


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype == np.dtype(ml_dtypes.bfloat16)


def _unused(taken: Sequence[Piece], left_out: Sequence[str], matches: Matches) -> tuple[Entry, ...]:
    used = {piece.name for found in matches.found.values() for piece in found.pieces}
    entries = [Entry("", (piece.name,), found=str(piece.spec)) for piece in taken if piece.name not in used]
    return (*entries, *(Entry("", (name,), note="left out by rename") for name in left_out))


def _to_freeze(
    freeze: bool | Texts, targets: Sequence[Target], layers: Mapping[str, Any], work: _Work
) -> tuple[str, ...]:
    """The outermost layers that were loaded whole and are asked for."""
    if freeze is False:
        return ()
    patterns = Patterns("freeze", None if freeze is True else freeze)
    asked = {target.path for target in targets if freeze is True or patterns.matches(target.path)}
    patterns.check_used(target.path for target in targets)
    frozen: list[str] = []
    for path in sorted((path for path in layers if path), key=lambda path: (path.count("/"), list(layers).index(path))):
        inside = [target.path for target in targets if target.path.startswith(f"{path}/")]
        whole = all(one in asked and work.entries[one][0] in ("loaded", "adapted") for one in inside)
        if inside and whole and not any(path.startswith(f"{outer}/") for outer in frozen):
            frozen.append(path)
    return tuple(frozen)
