"""OpenVINO: a second reader of ONNX and of SavedModels, which shares no code with the first."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep.errors import Damaged, UsageError
from modelkeep.model.signature import TensorInfo
from modelkeep.runtime.table import Arrays, Inputs

os.environ.setdefault("OPENVINO_TELEMETRY", "0")

import openvino


def load(path: Path, *, threads: int | None = None) -> "Session":
    """Open an ``.onnx`` file or a SavedModel; it computes in float32. Raises Damaged where it cannot."""
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}  # by itself it takes bfloat16 where the CPU has it
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    place = path / "1" if path.is_dir() and not (path / "saved_model.pb").exists() else path
    try:
        return Session(core.compile_model(core.read_model(str(place)), "CPU", settings), path.name)
    except RuntimeError as error:
        raise Damaged(f"{path.name}: OpenVINO cannot open it: {error!s:.400}", str(path)) from None


class Session:
    """A model that was compiled."""

    def __init__(self, model: Any, name: str) -> None:
        self._model, self._name = model, name
        self.inputs = {key: _info(key, port) for key, port in _named(model.inputs).items()}
        self._ports = _named(model.outputs)
        self.outputs = {key: _info(key, port) for key, port in self._ports.items()}

    def __call__(self, inputs: Inputs) -> Arrays:
        """Compute. Raises UsageError."""
        try:
            found = self._model(dict(inputs))
        except RuntimeError as error:
            raise UsageError(f"{self._name}: OpenVINO could not compute it: {error!s:.400}") from None
        return {name: np.array(found[port]) for name, port in self._ports.items()}


def _named(ports: Any) -> dict[str, Any]:
    """The ports by that of their names which has no number of an operation's output behind it."""
    return {min(port.get_names(), key=lambda name: (":" in name, len(name), name)): port for port in ports}


def _info(name: str, port: Any) -> TensorInfo:
    shape = tuple(axis.get_length() if axis.is_static else None for axis in port.get_partial_shape())
    return TensorInfo(name, port.get_element_type().to_dtype().name, shape)
