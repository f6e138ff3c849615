"""The states that are saved: named float32 arrays of unequal sizes, random, so that nothing compresses or repeats."""

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]

STRIDE = 1 << 18
"""`change` touches one value of each so many (1 MiB): every piece of a state changes, at almost no cost."""


def make(nbytes: int, count: int = 200, seed: int = 0) -> Arrays:
    """``count`` arrays of about ``nbytes`` bytes together, the largest about eight times the smallest."""
    generator = np.random.default_rng(seed)
    weights = np.geomspace(1, 8, count)
    generator.shuffle(weights)
    sizes = np.maximum(64, weights / weights.sum() * nbytes / 4).astype(int) // 64 * 64
    return {
        f"layer_{index:03d}/kernel": generator.random((int(size) // 64, 64), np.float32)
        for index, size in enumerate(sizes)
    }


def change(arrays: Arrays) -> None:
    """Change each array in place, every MiB of it."""
    for array in arrays.values():
        array.reshape(-1)[::STRIDE] += 1.0


def nbytes(arrays: Arrays) -> int:
    """Bytes of all arrays."""
    return sum(array.nbytes for array in arrays.values())
