"""Object arrays of str or bytes as one stream of bytes: n end offsets (u64, little-endian), then the items' bytes."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.errors import Damaged


def encode_texts(array: NDArray[Any]) -> NDArray[np.uint8]:
    r"""The stream of an object array of str (as UTF-8) or bytes, in C order; no bytes for an array without items.

    >>> encode_texts(np.array(["a", "bc"], object)).tobytes()
    b'\x01\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00abc'
    """
    items = [item.encode() if isinstance(item, str) else item for item in array.flat]
    ends = np.cumsum([len(item) for item in items], dtype="<u8")
    return np.frombuffer(ends.tobytes() + b"".join(items), np.uint8)


def decode_texts(stream: NDArray[np.uint8], shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """The object array of a stream; ``dtype`` is ``"str"`` or ``"bytes"``.

    Raises:
        Damaged: the stream does not hold as many items as ``shape`` has, or is not UTF-8.
    """
    count = math.prod(shape)
    if count * 8 > stream.nbytes:
        raise Damaged(f"a stream of {stream.nbytes} bytes cannot hold {count} items")
    data = stream[count * 8 :].tobytes()
    ends = [0, *stream[: count * 8].view("<u8").tolist()]
    if ends[-1] != len(data) or any(first > past for first, past in pairwise(ends)):
        raise Damaged(f"the offsets of {count} items do not fit the {len(data)} bytes behind them")
    array = np.empty(count, object)
    try:
        for index in range(count):
            item = data[ends[index] : ends[index + 1]]
            array[index] = item.decode() if dtype == "str" else item
    except UnicodeDecodeError as error:
        raise Damaged(f"an item is not UTF-8: {error}") from None
    return array.reshape(shape)
