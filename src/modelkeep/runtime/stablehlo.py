"""jax, which compiles StableHLO."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from modelkeep.errors import Damaged, UsageError
from modelkeep.model.signature import TensorInfo
from modelkeep.runtime.table import Arrays, Inputs


def load(path: Path, *, threads: int | None = None) -> "Session":
    """Open what `jax.export` has written; ``threads`` is XLA's to choose. Raises Damaged."""
    del threads
    try:
        return Session(export.deserialize(bytearray(path.read_bytes())), path.name)
    except Exception as error:  # noqa: BLE001  jax has no root of its errors
        raise Damaged(f"{path.name}: jax cannot open it: {error!s:.400}", str(path)) from None


class Session:
    """A function that was exported: of a dict of arrays, to one."""

    def __init__(self, exported: Any, name: str) -> None:
        self._call, self._name = jax.jit(exported.call), name
        (given,), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        self.inputs = {key: _info(key, one) for key, one in given.items()}
        gives = jax.tree.unflatten(exported.out_tree, exported.out_avals)
        self.outputs = {key: _info(key, one) for key, one in gives.items()}

    def __call__(self, inputs: Inputs) -> Arrays:
        """Compute. Raises UsageError."""
        try:
            return {name: np.asarray(one) for name, one in self._call(dict(inputs)).items()}
        except Exception as error:  # noqa: BLE001
            raise UsageError(f"{self._name}: jax could not compute it: {error!s:.400}") from None


def _info(name: str, aval: Any) -> TensorInfo:
    return TensorInfo(name, aval.dtype.name, tuple(axis if isinstance(axis, int) else None for axis in aval.shape))
