"""Logical dtype names, the numpy dtypes that they mean, and how each is stored in a safetensors shard."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from modelkeep.errors import UnknownFormat, UnsupportedState

TEXTS = ("str", "bytes")
"""The logical dtypes of object arrays, whose items have no fixed size."""

# logical name -> (safetensors dtype, items of it per value where that is not one). What the format lacks is stored in
# an integer or float of the same bits; the logical name stands in the record and in the shard's __metadata__.
_STORED: dict[str, tuple[str, int]] = {
    "bool": ("BOOL", 1),
    "int8": ("I8", 1),
    "int16": ("I16", 1),
    "int32": ("I32", 1),
    "int64": ("I64", 1),
    "uint8": ("U8", 1),
    "uint16": ("U16", 1),
    "uint32": ("U32", 1),
    "uint64": ("U64", 1),
    "float16": ("F16", 1),
    "float32": ("F32", 1),
    "float64": ("F64", 1),
    "complex64": ("C64", 1),
    "complex128": ("F64", 2),
    "bfloat16": ("BF16", 1),
    "complex32": ("F16", 2),
    "bcomplex32": ("BF16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
    "float8_e8m0fnu": ("F8_E8M0", 1),
    "float8_e3m4": ("U8", 1),
    "float8_e4m3": ("U8", 1),
    "float8_e4m3b11fnuz": ("U8", 1),
    # one byte per value, as numpy holds them: the format's F4 and F6 pack several into one
    "float6_e2m3fn": ("U8", 1),
    "float6_e3m2fn": ("U8", 1),
    "float4_e2m1fn": ("U8", 1),
    "int1": ("I8", 1),
    "int2": ("I8", 1),
    "int4": ("I8", 1),
    "uint1": ("U8", 1),
    "uint2": ("U8", 1),
    "uint4": ("U8", 1),
}

STORED_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8,
    "F16": 2, "BF16": 2, "F32": 4, "F64": 8, "C64": 8,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
}  # fmt: skip
"""Bytes per item of the safetensors dtypes that our shards use."""

_TIME = re.compile(r"(?:datetime|timedelta)64(?:\[[0-9]{0,9}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?")
_TEXT = re.compile(r"(<U|\|S)([1-9][0-9]{0,7})")


@dataclass(frozen=True, slots=True)
class Storage:
    """How a logical dtype lies in a shard: ``dtype`` is the safetensors name, ``trailing`` the length of an extra last
    dimension (0: none), ``itemsize`` the bytes of one logical value (1 for ``str`` and ``bytes`` streams).
    """

    dtype: str
    trailing: int
    itemsize: int


def logical_name(array: NDArray[Any]) -> str:
    """The logical dtype name of an array; byte order is no part of it.

    Raises:
        UnsupportedState: for a dtype that cannot be kept bit for bit.

    >>> logical_name(np.zeros(2, ">f4")), logical_name(np.array(["ab"])), logical_name(np.array([b"x"], object))
    ('float32', '<U2', 'bytes')
    """
    if array.dtype.kind == "O":
        return "bytes" if array.size and isinstance(array.flat[0], bytes) else "str"
    return _name_of(array.dtype)


@lru_cache(maxsize=256)  # numpy composes the name anew each time
def _name_of(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "US" and dtype.itemsize:
        return dtype.newbyteorder("<").str
    if dtype.kind in "mM" or dtype.name in _STORED:
        return dtype.name
    raise UnsupportedState(f"dtype {dtype} cannot be kept bit for bit")


@lru_cache(maxsize=256)
def storage(name: str) -> Storage:
    """How values of the logical dtype ``name`` are stored.

    Raises:
        UnknownFormat: for a name that this version does not know.

    >>> storage("complex128"), storage("<U2")
    (Storage(dtype='F64', trailing=2, itemsize=16), Storage(dtype='U32', trailing=2, itemsize=8))
    """
    if name in TEXTS:
        return Storage("U8", 0, 1)
    if name in _STORED:
        dtype, count = _STORED[name]
        return Storage(dtype, count if count > 1 else 0, STORED_BYTES[dtype] * count)
    text = _TEXT.fullmatch(name)
    if text:
        dtype, length = ("U32" if text[1] == "<U" else "U8"), int(text[2])
        return Storage(dtype, length, length * STORED_BYTES[dtype])
    if _TIME.fullmatch(name):
        return Storage("I64", 0, 8)
    raise UnknownFormat(f"the dtype {name!r:.80} is not known; a newer modelkeep, or ml_dtypes, may read it")


def is_native(name: str) -> bool:
    """Whether safetensors has the dtype itself, so that a shard alone says what its bytes mean.

    >>> is_native("bfloat16"), is_native("int4"), is_native("datetime64[ns]")
    (True, False, False)
    """
    stored, count = _STORED.get(name, ("", 0))
    return count == 1 and (stored not in ("I8", "U8") or name in ("int8", "uint8"))


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a logical name, little-endian; ``object`` for ``"str"`` and ``"bytes"``.

    Raises:
        UnknownFormat: for a name that this version, or the ml_dtypes that is installed, does not know.

    >>> numpy_dtype("bfloat16"), numpy_dtype("str")
    (dtype(bfloat16), dtype('O'))
    """
    size = storage(name).itemsize
    if name in TEXTS:
        return np.dtype(object)
    custom = getattr(ml_dtypes, name, None)
    try:
        dtype = np.dtype(name if custom is None else custom).newbyteorder("<")
    except (TypeError, ValueError, OverflowError):
        dtype = None
    if dtype is None or dtype.itemsize != size:
        raise UnknownFormat(f"the dtype {name!r:.80} is not known to this numpy and ml_dtypes; upgrade ml_dtypes")
    return dtype
