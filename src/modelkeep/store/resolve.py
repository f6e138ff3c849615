"""From a REF to a snapshot, and from a run to its newest good checkpoint."""

import difflib
import re
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from modelkeep.errors import Damaged, LimitExceeded, NotFound, UsageError
from modelkeep.snapshot import Snapshot
from modelkeep.store import layout
from modelkeep.store.aliases import is_alias
from modelkeep.store.documents import DAMAGE
from modelkeep.store.models import ModelRecord
from modelkeep.store.retention import Best, best_of
from modelkeep.store.runs import Checkpoint, RunRecord
from modelkeep.store.versions import Version
from modelkeep.values import Ref, SnapshotId

if TYPE_CHECKING:
    from modelkeep.store.store import Store

_VERSION = re.compile(r"[0-9]{1,18}")


def resolve(store: "Store", ref: Ref) -> Snapshot:
    """Return the snapshot that ``ref`` names.

    Raises:
        NotFound: there is no such run, checkpoint, model, version, alias or snapshot; close names are listed.
        UsageError: the name without a kind is one of a run and of a model.
        Damaged: its record cannot be read.
    """
    if ref.kind == "snapshot":
        return store.snapshot(_find_snapshot(store, ref.name))
    if ref.kind == "model" or (not ref.kind and _is_model(store, ref)):
        return store.snapshot(find_version(store, ref).snapshot_id)
    return store.snapshot(find_checkpoint(store, ref).snapshot_id)


def _is_model(store: "Store", ref: Ref) -> bool:
    """Whether a name without a kind is one of a model, and of no run. Raises UsageError where it is both."""
    if not store.model(ref.name).exists():
        return False
    if store.run(ref.name).exists():
        raise UsageError(
            f"{ref}: {ref.name} is a run and a model; write run:{ref.name}@{ref.rev} or model:{ref.name}@{ref.rev}"
        )
    return True


def find_version(store: "Store", ref: Ref) -> Version:
    """Return the version that a ``model:`` REF names: by its number, by an alias, or the newest.

    Raises:
        NotFound: there is no such model, version or alias; what there is is listed.
        Damaged: it cannot be read. No other one stands in for it.
    """
    model = store.model(ref.name)
    if not model.exists():
        run = f"; run:{ref.name} is a run" if store.run(ref.name).exists() else ""
        raise NotFound(
            f"{ref}: there is no model {ref.name} in {store.backend.url}{run}; there is "
            f"{_some(store.models(), ref.name)}"
        )
    if ref.rev == "last":
        newest = model.last()
        if newest is None:
            raise NotFound(f"{ref}: every version of model {ref.name} was removed; publish another one")
        return newest
    if _VERSION.fullmatch(ref.rev):
        return model.version(int(ref.rev))
    found = model.aliased(ref.rev) if is_alias(ref.rev) else None
    if found is None:
        raise _no_alias(ref, model)
    return found


def snapshot_and_version(store: "Store", found: Ref | Version | Snapshot) -> tuple[Snapshot, Version | None]:
    """The snapshot of a REF, and the version that it names, if it names one. Raises NotFound, Damaged."""
    if isinstance(found, Version):
        return store.snapshot(found.snapshot_id), found
    if isinstance(found, Snapshot):
        return found, None
    snapshot = resolve(store, found)
    is_version = found.kind != "snapshot" and snapshot.meta.get("kind") == "model"
    return snapshot, find_version(store, found) if is_version else None


def _no_alias(ref: Ref, model: ModelRecord) -> NotFound:
    number = ref.rev.removeprefix("v")
    if number != ref.rev and _VERSION.fullmatch(number):
        return NotFound(f"{ref}: a version is named by its number alone; write model:{ref.name}@{number}")
    aliases = model.aliases(on_damage=lambda *_: None)
    there = [f"{name} (version {version})" for name, version in sorted(aliases.items())]
    close = difflib.get_close_matches(ref.rev, aliases, 1, 0.5)
    return NotFound(
        f"{ref}: model {ref.name} has no alias {ref.rev}; it has {_some(there, close[0] if close else '')}, and "
        "versions are named by numbers or by last"
    )


def find_checkpoint(store: "Store", ref: Ref) -> Checkpoint:
    """Return the checkpoint that a ``run:`` REF names.

    Raises:
        NotFound: there is no such run or checkpoint; what there is is listed.
        Damaged: it is not among the checkpoints that can be read, and there are some that cannot; they are named.
    """
    if ref.kind == "model":
        raise NotFound(f"{ref} is a model, and a checkpoint is wanted; name a run: {_some(store.runs(), ref.name)}")
    run = store.run(ref.name)
    if ref.rev != "last" and not run.exists():  # for the newest it is asked only where there is none
        raise NotFound(_no_run(store, ref))
    word, _, rest = ref.rev.partition(":")
    damages: dict[str, Exception] = {}
    checkpoints = run.iterate_checkpoints(on_damage=damages.__setitem__)
    if word == "last":
        found = next(checkpoints, None)
    elif word == "best":
        found = _best(ref, run, rest)
    else:
        wanted, of = (int(rest), "epoch") if word == "epoch" else (_number(ref), "step")
        found = next((one for one in checkpoints if getattr(one, of) == wanted), None)
    if found is None:
        raise _missing(ref, run) if run.exists() else NotFound(_no_run(store, ref))
    for error in damages.values():
        # An older checkpoint stands in for it, and `verify` names what is damaged.
        warnings.warn(f"left out, since it cannot be read: {error}", RuntimeWarning, stacklevel=3)
    return found


def _no_run(store: "Store", ref: Ref) -> str:
    """What is said where there is no run of that name; without a kind a model may have been meant."""
    where = f"there is no run {ref.name} in {store.backend.url}"
    if ref.kind:
        return f"{ref}: {where}; there is {_some(store.runs(), ref.name)}"
    models = store.models()
    listed = f", and the models {_some(models, ref.name)}" if models else ""
    return f"{ref}: {where}, and no such model; there is {_some(store.runs(), ref.name)}{listed}"


def _missing(ref: Ref, run: RunRecord) -> Damaged | NotFound:
    """Why a checkpoint was not found: it is not there, or may be one of those whose records cannot be read."""
    damages: dict[str, Exception] = {}
    whole = run.iterate_checkpoints(on_damage=damages.__setitem__)
    there = [f"step {one.step} (epoch {one.epoch})" for one in whole]
    unread = [key for key in damages if key.startswith(f"{run.prefix}/checkpoints/")]
    if not unread:
        return NotFound(f"{ref}: run {ref.name} has no such checkpoint; it has {_some(there)}")
    which = "some checkpoints are damaged, and it may be one of them" if there else "all checkpoints are damaged"
    others = f"; those of {_some(there)} can be read" if there else ""
    return Damaged(
        f"{ref}: the records of {which}: {_some(unread)}; restore them from a copy of the keep (`modelkeep verify` "
        f"names everything that is damaged){others}",
        unread[0],
    )


def newest_good(
    store: "Store", run: RunRecord, on_damage: Callable[[str, Exception], None]
) -> tuple[Checkpoint, Snapshot, Any] | None:
    """Return the newest checkpoint whose every byte is as it was written, with its snapshot and state.

    Args:
        on_damage: told of each newer checkpoint that is damaged: ``(what it is, the error)``.

    Returns: None when the run has no checkpoint.

    Raises:
        Damaged: it has some, and none is whole.
    """
    last: Exception | None = None

    def told(what: str, error: Exception) -> None:
        nonlocal last
        last = error
        on_damage(what, error)

    for checkpoint in run.iterate_checkpoints(on_damage=told):
        try:
            snapshot = store.snapshot(checkpoint.snapshot_id)
            return checkpoint, snapshot, store.load(snapshot)
        except (Damaged, NotFound, LimitExceeded) as error:
            told(f"checkpoint {checkpoint.number} (step {checkpoint.step})", error)
    if last is not None:
        raise Damaged(f"run {run.name} has no checkpoint that is whole; the oldest: {last}", run.prefix) from last
    return None


def _best(ref: Ref, run: RunRecord, argument: str) -> Checkpoint | None:
    metric, _, mode = argument.partition(":")
    if mode not in ("", "min", "max"):
        raise UsageError(f"best:{argument} ends with {mode!r:.40}; write best:{metric}:min or best:{metric}:max")
    try:
        checkpoints = run.checkpoints()
    except DAMAGE as error:
        missing = _missing(ref, run)
        raise (missing if isinstance(missing, Damaged) else error) from None
    found = best_of(checkpoints, Best(metric, mode or _usual_mode(metric)))
    known = sorted({name for one in checkpoints for name in one.metrics})
    if not found and metric not in known:
        raise NotFound(f"run {run.name} has no metric {metric}; its checkpoints have {_some(known, metric)}")
    return found[0] if found else None


def _usual_mode(metric: str) -> str:
    """Accuracies and the like are better when they are larger, as Keras' callbacks guess."""
    larger = ("acc", "auc", "precision", "recall", "f1", "iou", "dice", "r2", "bleu")
    return "max" if any(part in metric.lower() for part in larger) else "min"


def _number(ref: Ref) -> int:
    if not _VERSION.fullmatch(ref.rev):
        raise NotFound(f"{ref}: a run has steps, last, best:METRIC and epoch:N, not {ref.rev}")
    return int(ref.rev)


def _find_snapshot(store: "Store", prefix: str) -> SnapshotId:
    if len(prefix) == 64:
        return SnapshotId(prefix)
    entries = store.backend.list(f"{layout.SNAPSHOTS}/{prefix[:2]}")
    known = (layout.snapshot_of(entry.key) for entry in entries if layout.is_known(entry.key))
    found = [one for one in known if one.startswith(prefix)]
    if not found:
        raise NotFound(f"there is no snapshot {prefix} in {store.backend.url}; `modelkeep ls` lists the runs")
    if len(found) > 1:
        raise UsageError(f"{prefix} begins the ids of {len(found)} snapshots: {_some(found)}; write more digits")
    return found[0]


def _some(names: Iterable[str], close_to: str = "") -> str:
    """Up to eight of the names, the closest first."""
    listed = list(names)
    if not listed:
        return "nothing yet"
    close = difflib.get_close_matches(close_to, listed, 8, 0.5) if close_to else []
    ordered = [*close, *(name for name in listed if name not in close)]
    more = f" and {len(ordered) - 8} more" if len(ordered) > 8 else ""
    return ", ".join(ordered[:8]) + more
