"""New arrays in memory that a framework can take over as it is."""

import math

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
"""What TensorFlow and jax want an address of their memory to be a multiple of, in bytes."""


def aligned(shape: tuple[int, ...], dtype: "np.dtype[np.generic]") -> NDArray[np.generic]:
    """An array of any values whose first byte lies at a multiple of 64; C-contiguous, and a view of its memory.

    >>> aligned((3, 5), np.dtype("f4")).ctypes.data % ALIGNMENT
    0
    """
    nbytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + nbytes].view(dtype).reshape(shape)
