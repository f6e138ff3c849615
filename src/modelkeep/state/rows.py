"""How an array is walked in blocks of rows without copying the whole of it."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 4 << 20
"""The size in bytes that a block of rows aims at and a row does not exceed: 4 MiB."""


def row_axes(shape: tuple[int, ...], itemsize: int) -> int:
    """How many leading axes are counted as rows: the fewest, at least one, that leave a row of at most 4 MiB.

    >>> row_axes((1000, 10), 4), row_axes((1, 4096, 4096), 4), row_axes((), 8)
    (1, 2, 0)
    """
    axes = min(1, len(shape))
    while axes < len(shape) and math.prod(shape[axes:]) * itemsize > BLOCK_BYTES:
        axes += 1
    return axes


def row_blocks(array: NDArray[np.generic], axes: int, rows: int) -> Iterator[tuple[int, int, NDArray[np.generic]]]:
    """Yield ``(first, past, block)`` for each ``rows`` rows of ``array``, the first ``axes`` axes counted as rows.

    A block is C-contiguous and little-endian, of shape ``(past - first, *array.shape[axes:])``: a view where the array
    is so already, else a copy of that block alone. An array without bytes has no blocks.
    """
    if array.nbytes == 0:
        return
    row_shape = array.shape[axes:]
    total = math.prod(array.shape[:axes])
    order = array.dtype.newbyteorder("<")
    if array.flags.c_contiguous and array.dtype == order:
        flat = array.reshape(total, *row_shape)
        for first in range(0, total, rows):
            yield first, min(first + rows, total), flat[first : first + rows]
        return
    for first in range(0, total, rows):
        past = min(first + rows, total)
        block = np.empty((past - first, *row_shape), order)
        _gather(array, axes, first, block)
        yield first, past, block


def _gather(array: NDArray[np.generic], axes: int, first: int, block: NDArray[np.generic]) -> None:
    """Fill ``block`` with the rows of ``array`` from row ``first`` on."""
    if axes == 0:
        block[0] = array
        return
    inner = array.shape[axes - 1]  # rows that lie behind one another along the last of the leading axes
    done = 0
    while done < len(block):
        outer, start = divmod(first + done, inner)
        count = min(inner - start, len(block) - done)
        lead = np.unravel_index(outer, array.shape[: axes - 1]) if axes > 1 else ()
        block[done : done + count] = array[lead][start : start + count]
        done += count


def byte_view(block: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The bytes of a C-contiguous array as one flat view, without a copy; writable when the array is.

    >>> byte_view(np.array([1, 256], "<u2")).tolist()
    [1, 0, 0, 1]
    """
    return block.reshape(-1).view(np.uint8)
