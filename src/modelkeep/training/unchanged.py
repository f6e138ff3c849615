"""Which arrays of a state are, provably, those of the state before: they need neither be hashed nor written.

TensorFlow never writes into a buffer that somebody else holds; a variable gets a new one then. So a variable that has
the very buffer that we have been holding since the last save has its very bits. What is held costs nothing as long as
it does not change, and is let go of when it does. A jax array never changes: the very object is the very bits. It is
only remembered, not held, since donation would have to copy what is held. torch offers no such proof (it updates in
place, and ``.data`` escapes its version counters), nor does numpy: their arrays are hashed.
"""

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.snapshot import Snapshot

Arrays = Mapping[str, NDArray[Any]]


class Held:
    """The arrays of the last save that the next one can tell by identity, by path."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[Any]] = {}
        """TensorFlow's, that did not change from one save to the next; held."""
        self._objects: dict[str, tuple[weakref.ref[Any], tuple[object, ...]]] = {}
        """jax's, each with where the view of it lay."""

    def same(self, arrays: Arrays) -> frozenset[str]:
        """The paths at which ``arrays`` has what the last save had."""
        return frozenset(path for path, array in arrays.items() if self._is_same(path, array))

    def hold(self, arrays: Arrays, before: Snapshot | None, now: Snapshot) -> None:
        """Hold or remember the ``arrays`` that were saved as ``now``, after ``before``."""
        owners = {path: _owner(array) for path, array in arrays.items() if not array.flags.writeable}
        self._objects = {
            path: (weakref.ref(owner), _place(arrays[path])) for path, owner in owners.items() if _is_jax(owner)
        }
        if before is None:
            return
        self._buffers = {
            path: arrays[path]
            for path, owner in owners.items()
            if _is_tensorflow(owner) and before.tensors.get(path) == now.tensors[path]
        }

    def _is_same(self, path: str, array: NDArray[Any]) -> bool:
        if array.flags.writeable:
            return False
        if path in self._buffers:
            return _is_tensorflow(_owner(array)) and _place(self._buffers[path]) == _place(array)
        known = self._objects.get(path)
        if known is None:
            return False
        owner = _owner(array)
        return _is_jax(owner) and known[0]() is owner and known[1] == _place(array)


def _place(array: NDArray[Any]) -> tuple[object, ...]:
    """Where an array lies, and how."""
    return array.__array_interface__["data"], array.dtype, array.shape, array.strides


def _owner(array: NDArray[Any]) -> Any:
    """What owns the memory that an array is a view of; None for memory of its own."""
    owner: Any = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner


def _is_tensorflow(owner: object) -> bool:
    return type(owner).__name__ == "tensorflow_wrapper"


def _is_jax(owner: object) -> bool:
    return type(owner).__name__ == "ArrayImpl"
