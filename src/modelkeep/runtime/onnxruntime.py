"""onnxruntime, which runs ONNX."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from modelkeep.errors import Damaged, UsageError
from modelkeep.model.signature import TensorInfo
from modelkeep.runtime.table import Arrays, Inputs

_FATAL = 4
_DTYPES = {"float": "float32", "double": "float64"}


def load(path: Path, *, threads: int | None = None) -> "Session":
    """Open an ``.onnx`` file. Raises Damaged where the runtime does not, as for operations that it lacks."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    try:
        return Session(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]), path.name)
    except Exception as error:  # noqa: BLE001  it has a dozen of its own, with no root but this
        raise Damaged(f"{path.name}: onnxruntime cannot open it: {error!s:.400}", str(path)) from None


class Session:
    """A file that was opened."""

    def __init__(self, session: Any, name: str) -> None:
        self._session, self._name = session, name
        self.inputs = {one.name: _info(one) for one in session.get_inputs()}
        self.outputs = {one.name: _info(one) for one in session.get_outputs()}
        self._names = list(self.outputs)
        self._texts = [name for name, info in self.inputs.items() if info.dtype == "string"]

    def __call__(self, inputs: Inputs) -> Arrays:
        """Compute. Raises UsageError."""
        if inputs.keys() != self.inputs.keys():
            raise UsageError(f"{self._name} asks for {', '.join(self.inputs)}, and {', '.join(inputs)} was given")
        try:
            given = dict(inputs)
            for name in self._texts:
                given[name] = _decoded(given[name])
            return dict(zip(self._names, self._session.run(self._names, given), strict=True))
        except Exception as error:  # noqa: BLE001
            raise UsageError(f"{self._name}: onnxruntime could not compute it: {error!s:.400}") from None


def _decoded(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Text as the runtime takes it: bytes it would print."""
    found = np.empty(array.shape, object)
    found.reshape(-1)[:] = [one.decode() if isinstance(one, bytes) else one for one in array.flat]
    return found


def _info(port: Any) -> TensorInfo:
    dtype = port.type.removeprefix("tensor(").removesuffix(")")
    return TensorInfo(
        port.name, _DTYPES.get(dtype, dtype), tuple(axis if isinstance(axis, int) else None for axis in port.shape)
    )
