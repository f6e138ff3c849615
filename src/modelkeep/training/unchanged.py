"""Which arrays of a state are, provably, those of the state before: they need neither be hashed nor written.

TensorFlow never writes into a buffer that somebody else holds; a variable gets a new one then. So a variable that has
the very buffer that we have been holding since the last save has its very bits. What is held costs nothing as long as
it does not change, and is let go of when it does. Other frameworks offer no such proof (torch updates in place and
``.data`` escapes its version counters; jax gives donated buffers new owners): their arrays are hashed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.snapshot import Snapshot

Arrays = Mapping[str, NDArray[Any]]


class Held:
    """The arrays that did not change from one save to the next, held so that the next one can tell by identity."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def same(self, arrays: Arrays) -> frozenset[str]:
        """The paths at which ``arrays`` has the buffers that are held."""
        return frozenset(path for path, held in self._arrays.items() if path in arrays and _is(held, arrays[path]))

    def hold(self, arrays: Arrays, before: Snapshot | None, now: Snapshot) -> None:
        """Hold those of ``arrays`` that are equal in the snapshots of two saves, and nothing else."""
        if before is None:
            return
        self._arrays = {
            path: array
            for path, array in arrays.items()
            if _is_copied_on_write(array) and before.tensors.get(path) == now.tensors[path]
        }


def _is(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return (
        one.__array_interface__["data"] == other.__array_interface__["data"]
        and (one.dtype, one.shape, one.strides) == (other.dtype, other.shape, other.strides)
        and _is_copied_on_write(other)
    )


def _is_copied_on_write(array: NDArray[Any]) -> bool:
    """Whether an array is a read-only view of a TensorFlow tensor: what owns its memory is TensorFlow's."""
    owner: Any = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return not array.flags.writeable and type(owner).__name__ == "tensorflow_wrapper"
