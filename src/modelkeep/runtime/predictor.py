"""``mk.predictor``: the answers of a model by the lightest runtime that is there and was proven to give them."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep.errors import NotFound, UsageError
from modelkeep.model.signature import Signature, flat, named, nested
from modelkeep.runtime.artifact import proof_of, restore
from modelkeep.runtime.inputs import conform
from modelkeep.runtime.table import RUNTIMES, Arrays, Inputs, Runtime, Script
from modelkeep.store import Export, Store, Version

KERAS = "keras"
"""The runtime of last resort: the model itself, under its framework."""


class Predictor:
    """A model that answers, made by `modelkeep.predictor`.

    ``signature`` says what it takes and gives, ``runtime`` what computes it (``"litert 2.3.0"``), ``ref`` which model
    it is.
    """

    def __init__(self, ref: str, signature: Signature, runtime: str, session: Callable[[Inputs], Arrays]) -> None:
        self.ref, self.signature, self.runtime = ref, signature, runtime
        self._session = session
        infos = named(signature.inputs)
        self._texts = {name for name, info in infos.items() if info.dtype == "string"}
        self._only = next(iter(infos)) if isinstance(signature.inputs, type(next(iter(infos.values())))) else None
        outputs = named(signature.outputs)
        self._answer = next(iter(outputs)) if not isinstance(signature.outputs, dict | list) else None

    def __call__(self, inputs: Any, *, allow_nan: bool = False) -> Any:
        """The answers to ``inputs``: arrays, nested as the model gives them.

        Args:
            inputs: arrays, lists, numbers or text, nested as the model takes them (a dict by names, a list, or one
                alone); first axis the examples, and a single example may leave it out.
            allow_nan: take NaN, which is refused otherwise: it is seldom meant.

        Raises:
            UsageError: names, dtypes or shapes that the model does not take, wanted and found; or NaN.
        """
        given = conform(inputs, self.signature, allow_nan=allow_nan)
        fed = {self._only: given} if self._only is not None else flat(self.signature.inputs, given)
        for name in self._texts:
            fed[name] = _as_bytes(fed[name])
        found = self._session(fed)
        return found[self._answer] if self._answer is not None else nested(self.signature.outputs, found)

    def labels(self, answers: Any) -> dict[str, Any]:
        """The label of the largest value along the last axis: lists, by the name of each output that has labels."""
        found = {}
        given = flat(self.signature.outputs, answers)
        for name, info in named(self.signature.outputs).items():
            if info.labels and given[name].ndim:
                found[name] = np.array(info.labels, object)[np.argmax(given[name], -1)].tolist()
        return found

    def warm_up(self, batch: int = 1) -> None:
        """Compute once on zeros, as the first call allocates; text is empty, and a free axis beside the batch is 1."""
        made = {}
        for name, info in named(self.signature.inputs).items():
            shape = tuple(axis or (1 if at else batch) for at, axis in enumerate(info.shape))
            made[name] = np.full(shape, b"", object) if info.dtype == "string" else np.zeros(shape, info.dtype)
        self._session(made)

    def __repr__(self) -> str:
        return f"Predictor({self.ref!r}, {self.runtime}, {self.signature})"


def open_predictor(
    store: Store, version: Version, *, runtime: str | None = None, threads: int | None = None
) -> Predictor:
    """The predictor of a version; see `modelkeep.predictor`."""
    structure = store.snapshot(version.snapshot_id).structure
    signature = Signature.from_json(structure["signature"])  # type: ignore[index, call-overload]
    if runtime not in (None, KERAS, *(one.name for one in RUNTIMES)):
        raise UsageError(f"there is no runtime {runtime!r:.40}; there is {', '.join(_names())} and {KERAS}")
    exports = [one for one in store.model(version.model).exports(version.number).all() if _is_plain(one)]
    for one in RUNTIMES:
        if runtime not in (None, one.name) or (runtime is None and isinstance(one, Script)) or one.version() is None:
            continue
        for export in exports:
            if export.format == one.format and _proves(proof_of(store, export), one):
                return _opened(store, version, signature, export, one, threads)
    if runtime in (None, KERAS):
        return _of_keras(store, version, signature, exported=bool(exports))
    wanted = next(one for one in RUNTIMES if one.name == runtime)
    if wanted.version() is None:
        raise UsageError(f"{runtime} is not installed; {wanted.way}")
    raise NotFound(
        f"{version.ref} has no export that {runtime} was proven on; modelkeep export {version.ref} --to {wanted.format}"
    )


def _names() -> list[str]:
    return list(dict.fromkeys(one.name for one in RUNTIMES))


def _is_plain(export: Export) -> bool:
    """Whether an export answers with all the precision of the model, and to any number of examples."""
    return not export.options.keys() & {"quantize", "batch", "flex", "tolerance"}


def _proves(proof: Mapping[str, Any], runtime: Runtime) -> bool:
    told = proof.get("runtimes")
    return isinstance(told, list) and any(
        isinstance(one, dict) and one.get("runtime") == runtime.name and "batches" in one for one in told
    )


def _opened(
    store: Store, version: Version, signature: Signature, export: Export, runtime: Runtime, threads: int | None
) -> Predictor:
    with tempfile.TemporaryDirectory(prefix="modelkeep-predict-") as folder:
        path = Path(folder) / f"{version.model}.{export.format}"
        restore(store, export, path)
        session = runtime.load(path, threads=threads)
    return Predictor(version.ref, signature, f"{runtime.name} {runtime.version()}", session)


def _of_keras(store: Store, version: Version, signature: Signature, *, exported: bool) -> Predictor:
    """The model itself. Raises UsageError where it has no framework here, with the ways out."""
    from importlib.util import find_spec

    structure = store.snapshot(version.snapshot_id).meta
    if structure.get("framework") != "keras" or find_spec("keras") is None:
        to = {"torch": "onnx", "jax": "savedmodel", "flax": "savedmodel"}.get(str(structure.get("framework")), "litert")
        way = "install the runtime of one of its exports" if exported else f"modelkeep export {version.ref} --to {to}"
        raise UsageError(f"no runtime that is installed here was proven to answer as {version.ref}; {way}")
    from modelkeep.model import keras_model
    from modelkeep.model.load import load_version

    model = load_version(store, store.snapshot(version.snapshot_id))

    def run(inputs: Inputs) -> Arrays:
        found = keras_model.answers(model, nested(signature.inputs, inputs))
        return {name: np.asarray(one) for name, one in flat(signature.outputs, found).items()}

    from importlib.metadata import version as installed

    return Predictor(version.ref, signature, f"{KERAS} {installed('keras')}", run)


def _as_bytes(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    found = np.empty(array.shape, object)
    found.reshape(-1)[:] = [one if isinstance(one, bytes) else str(one).encode() for one in array.flat]
    return found
