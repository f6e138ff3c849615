"""CRC-32C (Castagnoli) of arrays of bytes, in numpy: many lanes at once, folded together at the end."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = np.uint32(0x82F63B78)
_LANE = 256
"""Bytes that each lane takes before the lanes are folded."""

_LANES = 1 << 16
_MASK = 0xA282EAD8


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint32]:
    """What the low 16 bits of a checksum become when two zero bytes follow."""
    return _follow(np.arange(1 << 16, dtype=np.uint32), 16)


def _follow(values: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """The checksums after so many zero bits."""
    for _ in range(bits):
        values = (values >> np.uint32(1)) ^ (_POLYNOMIAL * (values & np.uint32(1)))
    return values


@lru_cache(maxsize=64)
def _shift(count: int) -> NDArray[np.uint32]:
    """What each of the 32 bits of a checksum becomes when ``count`` zero bytes follow, ``count`` a power of two."""
    if count == 1:
        return _follow(np.uint32(1) << np.arange(32, dtype=np.uint32), 8)
    half = _shift(count // 2)
    return _apply(half, half)


def _apply(matrix: NDArray[np.uint32], values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The matrix of 32 columns times each value, over the field of two elements."""
    done = np.zeros_like(values)
    for bit in range(32):
        done ^= matrix[bit] * ((values >> np.uint32(bit)) & np.uint32(1))
    return done


def crc32c(data: Any) -> int:
    """The checksum of bytes, or of an array that lies in one run.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    flat = np.frombuffer(data, np.uint8)
    state, offset = 0xFFFFFFFF, 0
    while flat.size - offset >= _LANE:
        lanes = min(1 << ((flat.size - offset) // _LANE).bit_length() - 1, _LANES)
        state = _fold(state, flat[offset : offset + lanes * _LANE].reshape(lanes, _LANE))
        offset += lanes * _LANE
    table = _table()
    for byte in flat[offset:].tolist():
        # eight bits by the table of sixteen: shifted up, the low half of the table's index is zero
        state = int(table[((state ^ byte) & 0xFF) << 8]) ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def _fold(state: int, rows: NDArray[np.uint8]) -> int:
    """The checksum after all rows; ``len(rows)`` is a power of two."""
    table, low = _table(), np.uint32(0xFFFF)
    sums = np.zeros(len(rows), np.uint32)
    sums[0] = state
    for words in np.ascontiguousarray(rows.view("<u2").T):
        sums = table[(sums ^ words) & low] ^ (sums >> np.uint32(16))
    count = _LANE
    while len(sums) > 1:
        sums = _apply(_shift(count), sums[0::2]) ^ sums[1::2]
        count *= 2
    return int(sums[0])


def masked(value: int) -> int:
    """The form in which TensorFlow and LevelDB store a checksum.

    >>> hex(masked(0xe3069283))
    '0xc78ab0e5'
    """
    turned = (value >> 15 | value << 17) & 0xFFFFFFFF
    return (turned + _MASK) & 0xFFFFFFFF
