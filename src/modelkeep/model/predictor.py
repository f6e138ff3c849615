"""A SavedModel as what it is, a graph of TensorFlow: run as it stands, once a scan has found only computation in it.

It is loaded by its graph and its signatures, as TensorFlow Serving does, and not by its Python objects: those of older
versions of TensorFlow and Keras cannot all be made again.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, Unsafe, UsageError
from modelkeep.model.signature import Signature, TensorInfo
from modelkeep.scan import scan

_DEFAULT = "serving_default"


class Predictor:
    """A signature of a SavedModel, to be called. Made by ``mk.load_model("path/to/saved_model")``.

    ``signature`` has the names, dtypes and shapes of what it takes and gives.
    """

    def __init__(self, path: str, session: Any, signature: Any) -> None:
        self._path, self._session = path, session
        self._inputs, self._outputs = dict(signature.inputs), dict(signature.outputs)
        self._infos = _infos(self._inputs)
        self.signature = Signature(self._infos, _infos(self._outputs))

    def __call__(self, inputs: Any) -> Any:
        """What the graph gives for ``inputs``: an array, or a dict of them where the signature has several.

        Args:
            inputs: an array for a signature of one input, else a dict by their names. Lists take the dtype that is
                wanted, arrays must have it.

        Raises:
            UsageError: names, dtypes or shapes that the signature does not take.
        """
        given = inputs if isinstance(inputs, Mapping) else dict.fromkeys(list(self._inputs)[:1], inputs)
        if given.keys() != self._inputs.keys():
            raise UsageError(f"{self._path}: it takes {self.signature.shown_inputs}, and {', '.join(given)} was given")
        feed = {proto.name: self._fed(name, proto, given[name]) for name, proto in self._inputs.items()}
        found = self._session.run({name: proto.name for name, proto in self._outputs.items()}, feed)
        return found if len(found) > 1 else next(iter(found.values()))

    def _fed(self, name: str, proto: Any, value: Any) -> np.ndarray:
        info = self._infos[name]
        dtype = np.dtype(object if info.dtype == "string" else info.dtype)
        try:
            array = value if isinstance(value, np.ndarray) else np.asarray(value, dtype)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{self._path}: {info} is wanted: {error!s:.200}") from None
        if (dtype.kind != "O" and array.dtype != dtype) or not _fits(array.shape, proto.tensor_shape, info.shape):
            raise UsageError(f"{self._path}: {info} is wanted, not {array.dtype} {list(array.shape)}")
        return array

    def __repr__(self) -> str:
        return f"Predictor({self._path!r}, {self.signature})"


def load_predictor(path: str | os.PathLike[str], budget: Budget) -> Predictor:
    """The default signature of a SavedModel, or its only one.

    The budget holds for the bytes of its variables and of its graph, not for what the graph computes.

    Raises:
        Unsafe: the scan found something in it that is no computation: files, connections, Python, unknown operations.
        UsageError: TensorFlow is not installed, or it has no signature that could be meant.
        Damaged: TensorFlow cannot load it.
        LimitExceeded: its graph has more bytes than the budget.
    """
    place = os.fspath(path)
    report = scan(place, budget=budget)
    if report.verdict != "clean":
        first = report.findings[0]
        if first.severity == "limit":
            raise LimitExceeded(f"{place}: {first.what}")
        if first.severity == "damaged":
            raise Damaged(f"{place}: {first.where}: {first.what}", place)
        raise Unsafe(
            f"{place}: {first.where}: {first.what} ({first.why}); the graph was not loaded. Its variables alone are "
            "safe: modelkeep import, or into=model"
        )
    try:
        import tensorflow as tf
    except ImportError:
        raise UsageError(f"{place}: a SavedModel is run by TensorFlow; pip install 'modelkeep[tensorflow]'") from None
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    try:
        with graph.as_default():
            loaded = tf.compat.v1.saved_model.load(session, ["serve"], place)
    except Exception as error:  # noqa: BLE001  TensorFlow's loader raises whatever it stumbles over
        session.close()
        raise Damaged(f"{place}: TensorFlow cannot load it: {error!s:.300}", place) from None
    signatures = {name: one for name, one in loaded.signature_def.items() if one.outputs and not name.startswith("__")}
    if _DEFAULT not in signatures and len(signatures) != 1:
        names = ", ".join(sorted(signatures))
        found = f"the signatures {names}, and none of them is {_DEFAULT}" if names else "no signature"
        raise UsageError(f"{place}: it has {found}; save it with signatures=, or load it with TensorFlow")
    return Predictor(place, session, signatures.get(_DEFAULT) or next(iter(signatures.values())))


def _fits(shape: tuple[int, ...], proto: Any, wanted: tuple[int | None, ...]) -> bool:
    same = len(shape) == len(wanted) and all(axis in (None, size) for axis, size in zip(wanted, shape, strict=True))
    return proto.unknown_rank or same


def _infos(protos: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {name: _info(name, proto) for name, proto in protos.items()}


def _info(name: str, proto: Any) -> TensorInfo:
    import tensorflow as tf

    axes = tuple(None if axis.size < 0 else int(axis.size) for axis in proto.tensor_shape.dim)
    return TensorInfo(name, tf.as_dtype(proto.dtype).name, axes)
