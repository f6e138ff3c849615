"""Arrays cut into pieces: whole rows, a few MiB, each named by the BLAKE3 hash of its bytes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from blake3 import blake3
from numpy.typing import NDArray

from modelkeep.snapshot.dtypes import TEXTS, logical_name, storage
from modelkeep.snapshot.texts import encode_texts
from modelkeep.state.rows import BLOCK_BYTES, byte_view, row_axes, row_blocks
from modelkeep.values import Digest

PIECE_BYTES = BLOCK_BYTES
"""The size that a piece does not exceed, unless one value does: 4 MiB."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where an array of ``rows`` rows of ``row_shape`` values is cut: after every ``piece_rows`` rows.

    A row is one entry of the first axis, or, where that is larger than 4 MiB, of as many leading axes as it takes.
    """

    rows: int
    row_shape: tuple[int, ...]
    row_bytes: int
    piece_rows: int

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return self.rows * self.row_bytes

    @property
    def count(self) -> int:
        """Number of pieces; none for an array without bytes."""
        return -(-self.rows // self.piece_rows) if self.nbytes else 0

    def bounds(self, index: int) -> tuple[int, int]:
        """First and past-the-last row of piece ``index``."""
        return index * self.piece_rows, min((index + 1) * self.piece_rows, self.rows)

    def span(self, index: int) -> tuple[int, int]:
        """First and past-the-last byte of piece ``index`` within the array's bytes."""
        first, past = self.bounds(index)
        return first * self.row_bytes, past * self.row_bytes


def grid(shape: tuple[int, ...], itemsize: int, piece_rows: int = 0) -> Grid:
    """The grid of an array of ``shape`` with values of ``itemsize`` bytes; ``piece_rows`` 0: pieces of at most 4 MiB.

    >>> grid((3000, 1000), 4).count, grid((3000, 1000), 4).bounds(2)
    (3, (2096, 3000))
    """
    axes = row_axes(shape, itemsize)
    row_bytes = math.prod(shape[axes:]) * itemsize
    rows = piece_rows or max(1, PIECE_BYTES // max(1, row_bytes))
    return Grid(math.prod(shape[:axes]), shape[axes:], row_bytes, rows)


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows ``first`` to ``past`` of an array; ``data``: their bytes in C order, little-endian, flat."""

    first: int
    past: int
    data: memoryview


def stored_array(array: NDArray[Any]) -> NDArray[Any]:
    """The array whose bytes are stored: itself, or the uint8 stream of an object array."""
    return encode_texts(array) if logical_name(array) in TEXTS else array


def cut(array: NDArray[Any]) -> Iterator[Piece]:
    r"""Cut an array into its pieces, in order.

    No copy where the array is C-contiguous and little-endian: then ``data`` shares its memory. Otherwise one piece at
    a time is copied. Object arrays of str or bytes are cut as their uint8 stream.

    Raises:
        UnsupportedState: for a dtype that cannot be kept.

    >>> import numpy as np
    >>> [(piece.first, piece.past, bytes(piece.data)) for piece in cut(np.array([[1, 2], [3, 4]], "u1").T)]
    [(0, 2, b'\x01\x03\x02\x04')]
    """
    array = stored_array(array)
    lines = grid(array.shape, storage(logical_name(array)).itemsize)
    for first, past, block in row_blocks(array, row_axes(array.shape, array.dtype.itemsize), lines.piece_rows):
        yield Piece(first, past, byte_view(block).data)


def digest(buffer: bytes | bytearray | memoryview) -> Digest:
    """The BLAKE3 hash of some bytes, as 64 hexadecimal digits; other threads run meanwhile.

    >>> digest(b"")[:16]
    'af1349b9f5f9a1a6'
    """
    return Digest(blake3(buffer).hexdigest())
