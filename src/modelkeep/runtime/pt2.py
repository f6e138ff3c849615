"""torch, which runs what `torch.export` has written."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelkeep.errors import Damaged, UsageError
from modelkeep.model.signature import TensorInfo
from modelkeep.runtime.table import Arrays, Inputs


def load(path: Path, *, threads: int | None = None) -> "Session":
    """Open a ``.pt2`` file; ``threads`` are those of the whole process. Raises Damaged."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        return Session(torch.export.load(str(path)), path.name)
    except Exception as error:  # noqa: BLE001  torch has no root of its errors
        raise Damaged(f"{path.name}: torch cannot open it: {error!s:.400}", str(path)) from None


class Session:
    """A program of one dict of tensors, to one."""

    def __init__(self, program: Any, name: str) -> None:
        self._module, self._name = program.module(), name
        (given,) = program.example_inputs[0]
        self.inputs = {key: _info(key, one) for key, one in given.items()}
        with torch.no_grad():
            self.outputs = {key: _info(key, one) for key, one in self._module(given).items()}

    def __call__(self, inputs: Inputs) -> Arrays:
        """Compute. Raises UsageError."""
        try:
            with torch.no_grad():
                found = self._module({name: torch.from_numpy(np.array(one)) for name, one in inputs.items()})
        except Exception as error:  # noqa: BLE001
            raise UsageError(f"{self._name}: torch could not compute it: {error!s:.400}") from None
        return {name: one.numpy() for name, one in found.items()}


def _info(name: str, tensor: Any) -> TensorInfo:
    return TensorInfo(name, str(tensor.dtype).removeprefix("torch."), (None, *tensor.shape[1:]))
