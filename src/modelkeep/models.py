"""A model by its REF in any keep, or by its file: the functions of the package that find it first."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from modelkeep.budget import Budget
from modelkeep.errors import UsageError
from modelkeep.keep import Keep
from modelkeep.keep import open as open_place
from modelkeep.snapshot import Snapshot
from modelkeep.store import Version
from modelkeep.values import Ref

if TYPE_CHECKING:
    from modelkeep.model.transfer.report import TransferReport
    from modelkeep.model.transfer.resizing import Resize
    from modelkeep.model.transfer.sources import Rename
    from modelkeep.runtime.predictor import Predictor


_FILES = (
    ".keras", ".h5", ".hdf5", ".safetensors", ".npz", ".npy", ".pt", ".pth", ".bin", ".onnx", ".index", ".json",
    ".tflite",
)  # fmt: skip
"""By which a text is told to name a file, and not a model of a keep."""


def load_model(
    ref: str | os.PathLike[str] | Ref | Version | Snapshot,
    *,
    keep: "str | os.PathLike[str] | Keep | None" = None,
    custom_objects: Mapping[str, Any] | None = None,
    compiled: bool = False,
    into: Any = None,
    check: bool = False,
    budget: Budget | None = None,
) -> Any:
    """Load a model from a keep, or from a ``.keras`` or legacy ``.h5`` file; `Keep.load_model` says how.

    ``KEEP#REF`` names another keep than ``keep``. A path object, a text with a ``/`` or one that ends as such files do
    names a file, which goes through the same door: nothing in it is run, and it is held to ``budget``. With ``into`` a
    ``.weights.h5`` will do. A graph (a SavedModel, ``.tflite``, ``.onnx``) has no layers: it gives a `predictor`.

    >>> import keras, modelkeep
    >>> model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
    >>> modelkeep.open("memory://docs-load-model").publish("digits", model).ref
    'model:digits@1'
    >>> modelkeep.load_model("digits@1", keep="memory://docs-load-model").count_params()
    8
    """
    if _is_file(ref):
        from modelkeep.model.foreign import load_file
        from modelkeep.runtime.foreign import is_graph, open_file

        if check:
            raise UsageError(
                f"{ref}: a foreign file has no examples to check; leave check=True out, or publish it first"
            )
        if into is None and not compiled and is_graph(ref):
            return open_file(ref, budget=budget)
        return load_file(ref, custom_objects=custom_objects, compiled=compiled, into=into, budget=budget)
    assert not isinstance(ref, os.PathLike)
    opened, parsed = _located(ref, keep)
    return opened.load_model(
        parsed, custom_objects=custom_objects, compiled=compiled, into=into, check=check, budget=budget
    )


def export(
    ref: str | Ref | Version | Snapshot,
    to: str,
    out: str | os.PathLike[str] | None = None,
    *,
    keep: "str | os.PathLike[str] | Keep | None" = None,
    **options: Any,
) -> Path:
    """Write a model of a keep in a format of others, and prove it; `Keep.export` says how, and has the options.

    ``KEEP#REF`` names another keep than ``keep``.
    """
    opened, parsed = _located(ref, keep)
    return opened.export(parsed, to, out, **options)


def predictor(
    ref: str | os.PathLike[str] | Ref | Version,
    *,
    keep: "str | os.PathLike[str] | Keep | None" = None,
    runtime: str | None = None,
    threads: int | None = None,
    warm_up: bool = False,
) -> "Predictor":
    """A model of a keep that answers without its training framework; `Keep.predictor` says how.

    ``KEEP#REF`` names another keep than ``keep``. A path names a ``.tflite`` or ``.onnx`` file or a SavedModel, which
    is opened once `modelkeep.scan` finds nothing but computation in it; `Unsafe` is raised for anything else.
    """
    if _is_file(ref):
        from modelkeep.runtime.foreign import open_file

        found = open_file(ref, runtime=runtime, threads=threads)
        if warm_up:
            found.warm_up()
        return found
    assert not isinstance(ref, os.PathLike)
    opened, parsed = _located(ref, keep)
    assert not isinstance(parsed, Snapshot)
    return opened.predictor(parsed, runtime=runtime, threads=threads, warm_up=warm_up)


def transfer(
    model: Any,
    source: Any,
    *,
    keep: "str | os.PathLike[str] | Keep | None" = None,
    rename: "Rename | None" = None,
    only: str | Sequence[str] | None = None,
    skip: str | Sequence[str] = (),
    freeze: bool | str | Sequence[str] = False,
    adapt: "bool | Mapping[str, Resize]" = True,
    partial: bool = False,
) -> "TransferReport":
    """Load pre-trained weights into a built Keras model, by name, else by the only way in which their shapes fit.

    Never by position: layers of one shape that were swapped or renamed, a shallower model and NaN are said, not loaded.
    Names that Keras has numbered by itself count only where both sides have the same ones, and the report says
    "by number". Seed generators are left alone. A layer of Keras of which one weight does not fit keeps all of its own.
    Compile the model afterwards: an optimizer's moments are about the weights that were there before, and what is
    frozen counts from the next ``compile`` on.

    Where the weights come from goes into the lineage of what is published and of the checkpoints of its training; a
    version of the same keep becomes a parent.

    Args:
        model: a built model; its weights are called by layer, as ``dense/kernel``.
        source: a REF (``"digits@3"``, ``"run:cnn@best:val_loss"``), a foreign file or folder (``"bert/"``,
            ``"weights.pt"``) in any format that can be imported, a Keras model or torch module, or arrays by name.
        keep: where a REF is looked up: a keep, a path or a URL; by default the default keep.
        rename: prefixes of the source's names to those of the model, ``{"bert": "", "fc": "head"}``, or a function of
            the name that returns the new one, or None to leave it out. Of several recurrent layers in one torch module,
            the first is ``lstm/l0``.
        only: patterns of weights or layers of the model: no others are expected.
        skip: patterns of those that are left as they are, such as ``"head"``.
        freeze: True, or patterns: layers all of whose weights were loaded do not train any more.
        adapt: True: torch's layouts become those of Keras, and floating point numbers take the model's precision.
            False: nothing is changed. A mapping of patterns to ``"resize"``, ``"grid"``, ``"rows"`` or
            `modelkeep.Rows` also changes the size of those weights.
        partial: do not raise where something expected was not loaded; the report has it.

    Returns: what became of each weight, as a value and, printed, as a table.

    Raises:
        StateMismatch: a weight that was neither skipped nor loaded; the model is as it was.
        NotFound: there is no such source, or a pattern matches nothing in the model.
        UsageError: a model that is not built, or a source, rename or adapt that cannot be used.
        Unsafe, UnknownFormat, Damaged, LimitExceeded: of a file; nothing in it is run.

    >>> import keras, numpy as np
    >>> layers = [keras.layers.Dense(4, name="fc"), keras.layers.Dense(2, name="head")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers])
    >>> torch_names = {"fc.weight": np.ones((4, 3), "f4"), "fc.bias": np.zeros(4, "f4")}
    >>> print(transfer(model, torch_names, skip="head", freeze=True))
    1 loaded, 1 adapted, 2 skipped, 1 layer frozen
             model        wanted          source     found
    loaded   fc/bias      float32 [4]     fc.bias    float32 [4]
    adapted  fc/kernel    float32 [3, 4]  fc.weight  float32 [4, 3]  transposed
    skipped  head/kernel  float32 [4, 2]
    skipped  head/bias    float32 [2]
    frozen   fc
    """
    from modelkeep.model.transfer import opening, weights

    plan = weights.Plan(rename, only, skip, freeze, adapt, partial)
    if _is_file(source):
        opened = opening.open_file(source)
    elif isinstance(source, str | Ref | Version | Snapshot):
        place, parsed = _located(source, keep)
        opened = opening.open_kept(place.store, parsed)
    else:
        opened = opening.open_object(source)
    return weights.transfer(model, opened, plan)


def _located(
    ref: str | Ref | Version | Snapshot, keep: "str | os.PathLike[str] | Keep | None"
) -> "tuple[Keep, Ref | Version | Snapshot]":
    """The keep that a REF is looked up in: that which it names itself, else the one given, else the default."""
    parsed = Ref.parse(ref) if isinstance(ref, str) else ref
    if isinstance(parsed, Ref) and parsed.keep is not None:
        keep = parsed.keep
    return (keep if isinstance(keep, Keep) else open_place(keep, create=False)), parsed


def _is_file(ref: object) -> TypeGuard["str | os.PathLike[str]"]:
    """Whether ``ref`` names a file: a path object, a text with a ``/``, or one that ends as such files do."""
    if isinstance(ref, os.PathLike):
        return True
    if not isinstance(ref, str) or "#" in ref or ref.startswith(("run:", "model:", "snapshot:")):
        return False
    return "/" in ref or os.sep in ref or ref.lower().endswith(_FILES)
