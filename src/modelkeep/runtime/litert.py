"""LiteRT, which was TensorFlow Lite: what Android and iOS run."""

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from modelkeep.errors import Damaged, UsageError
from modelkeep.model.signature import TensorInfo
from modelkeep.runtime.table import Arrays, Inputs


def load(path: Path, *, threads: int | None = None) -> "Session":
    """Open a ``.tflite`` file. Raises Damaged where the interpreter does not, as for operations that it lacks."""
    try:
        return Session(Interpreter(model_path=str(path), num_threads=threads), path.name)
    except (ValueError, RuntimeError) as error:
        raise Damaged(f"{path.name}: LiteRT cannot open it: {error!s:.400}", str(path)) from None


class Session:
    """The signature of a file, or its tensors where it has none. They are found by name, and set by number."""

    def __init__(self, interpreter: Interpreter, name: str) -> None:
        self._interpreter, self._name = interpreter, name
        inputs, outputs = _details(interpreter, name)
        self.inputs = {key: _info(key, detail) for key, detail in inputs.items()}
        self.outputs = {key: _info(key, detail) for key, detail in outputs.items()}
        self._inputs = {key: detail["index"] for key, detail in inputs.items()}
        self._outputs = {key: detail["index"] for key, detail in outputs.items()}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def __call__(self, inputs: Inputs) -> Arrays:
        """Compute. Raises UsageError."""
        interpreter = self._interpreter
        shapes = {name: array.shape for name, array in inputs.items()}
        try:
            if shapes != self._shapes:
                self._resize(shapes)
            for name, array in inputs.items():
                interpreter.set_tensor(self._inputs[name], array)
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            self._shapes = {}
            raise UsageError(f"{self._name}: LiteRT could not compute it: {error!s:.400}") from None
        return {name: interpreter.get_tensor(index) for name, index in self._outputs.items()}

    def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            wanted = self.inputs[name].shape
            if None not in wanted and wanted != shape:
                raise UsageError(f"{name} is of shape {list(shape)}, and was exported as {list(wanted)}")
            self._interpreter.resize_tensor_input(self._inputs[name], shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _details(interpreter: Interpreter, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    signatures = list(interpreter.get_signature_list())
    if len(signatures) > 1:
        raise Damaged(f"{name}: it has {len(signatures)} signatures, and which is meant cannot be told", name)
    if signatures:
        runner = interpreter.get_signature_runner(signatures[0])
        return runner.get_input_details(), runner.get_output_details()
    both = (interpreter.get_input_details(), interpreter.get_output_details())
    return tuple({one["name"]: one for one in details} for details in both)  # type: ignore[return-value]


def _info(name: str, detail: dict[str, Any]) -> TensorInfo:
    dtype = np.dtype(detail["dtype"])
    shape = tuple(None if axis < 0 else int(axis) for axis in detail["shape_signature"])
    return TensorInfo(name, "string" if dtype.kind in "OS" else dtype.name, shape)
