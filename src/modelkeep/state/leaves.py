"""The leaves of a state: which arrays and values are kept, and how values are written in JSON."""

import base64
import binascii
import math
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.errors import Damaged, UnknownFormat, UnsupportedState
from modelkeep.state.paths import shown
from modelkeep.values import Json

Array = NDArray[Any]

INLINE_BYTES = 4096
"""Longer ``bytes`` leaves are kept as tensors: base64 in the record would be read with every record."""

_EXACT_INT = 1 << 53
_DECIMAL_BITS = 4096  # beyond, hexadecimal: Python refuses decimals of more than 4300 digits, and they take n² steps
_INT = re.compile(r"-?(?:0x[0-9a-f]+|[0-9]{1,1300})")
_CANONICAL_NAN = 0x7FF8000000000000


def as_array(leaf: object, path: str) -> Array | None:
    """``leaf`` as the array that is kept, or None when it is not an array.

    Numpy scalars become 0-d arrays. Arrays are returned as they are, not copied.

    Raises:
        UnsupportedState: for dtypes and subclasses that cannot be kept bit for bit.
    """
    if isinstance(leaf, np.generic):
        leaf = np.asarray(leaf)
    if not isinstance(leaf, np.ndarray):
        return None
    if type(leaf) is not np.ndarray:
        if not isinstance(leaf, np.memmap):
            is_masked = isinstance(leaf, np.ma.MaskedArray)
            way_out = "pass x.data and x.mask as two arrays" if is_masked else "pass np.asarray(x)"
            raise _refused(path, f"{type(leaf).__name__}, a subclass of numpy.ndarray", way_out)
        leaf = leaf.view(np.ndarray)
    _check_dtype(leaf, path)
    return leaf


def _check_dtype(array: Array, path: str) -> None:
    dtype = array.dtype
    if dtype.kind == "O":
        _check_objects(array, path)
    elif dtype.kind == "T":
        raise _refused(path, "dtype StringDType", "pass x.astype(object)")
    elif dtype.names is not None:
        raise _refused(path, f"structured dtype {dtype}", "keep each field as an array of its own")
    elif dtype.kind in "fc" and dtype.char in "gG":
        way_out = f"pass x.astype('{'complex128' if dtype.kind == 'c' else 'float64'}'), which rounds"
        raise _refused(path, f"dtype {dtype}, whose bits differ between machines", way_out)
    elif dtype.itemsize == 0:
        raise _refused(path, f"dtype {dtype.str}, whose items have no bytes", "pass x.astype('<U1') or 'S1'")
    elif dtype.kind not in "biufcSUmM" and dtype.type.__module__ != "ml_dtypes":
        raise _refused(path, f"dtype {dtype}", "pass x.view('u1') for raw bytes")


def _check_objects(array: Array, path: str) -> None:
    kinds = {type(item) for item in array.flat}
    if kinds <= {str}:
        try:
            for item in array.flat:
                item.encode()
        except UnicodeEncodeError:
            raise _refused(path, "an object array of text with a lone surrogate", "use Unicode text") from None
    elif kinds != {bytes}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise _refused(path, f"an object array of {names}", "object arrays hold either str or bytes")


def _refused(path: str, found: str, way_out: str) -> UnsupportedState:
    return UnsupportedState(f"{shown(path)}: {found} cannot be kept bit for bit; {way_out}")


def encode(leaf: object, path: str) -> Json:
    """The JSON node of a value that is neither a container nor an array.

    Raises:
        UnsupportedState: for any other type, subclasses of the known ones included, since they would come back as
            another type.
    """
    if leaf is None or type(leaf) is bool:
        return leaf
    if type(leaf) is int:
        return _encode_int(leaf)
    if type(leaf) is float:
        return _encode_float(leaf)
    if type(leaf) is str:
        return _encode_str(leaf, path)
    if type(leaf) is bytes:
        return {"$": "bytes", "value": base64.b64encode(leaf).decode()}
    if type(leaf) is complex:
        return {"$": "complex", "value": [_encode_float(leaf.real), _encode_float(leaf.imag)]}
    raise _refused(path, f"{_type_name(leaf)} value", _way_out(leaf))


def _encode_int(value: int) -> Json:
    if -_EXACT_INT <= value <= _EXACT_INT:
        return value
    return {"$": "int", "value": str(value) if value.bit_length() <= _DECIMAL_BITS else hex(value)}


def _encode_float(value: float) -> Json:
    if math.isfinite(value):
        return value
    if math.isinf(value):
        return {"$": "float", "value": "inf" if value > 0 else "-inf"}
    bits = struct.unpack("<Q", struct.pack("<d", value))[0]
    return {"$": "float", "value": "nan" if bits == _CANONICAL_NAN else f"nan:{bits:016x}"}


def _encode_str(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refused(path, "text with a lone surrogate", "use Unicode text, or bytes") from None
    return value


def _type_name(leaf: object) -> str:
    kind = type(leaf)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _way_out(leaf: object) -> str:
    if isinstance(leaf, tuple) and hasattr(leaf, "_asdict"):
        return "pass x._asdict()"
    for base in (dict, list, tuple, int, float, str, bytes, complex):
        if isinstance(leaf, base):
            return f"pass {base.__name__}(x)"
    if isinstance(leaf, (set, frozenset)):
        return "pass sorted(x)"
    if isinstance(leaf, bytearray | memoryview):
        return "pass bytes(x)"
    if hasattr(leaf, "__array__"):
        return "pass np.asarray(x), or the state_of of its framework"
    return "a state holds numpy arrays, None, bool, int, float, str, bytes, complex, and dicts, lists, tuples of them"


def decode(node: dict[str, Json], path: str) -> object:
    """The value of a ``{"$": kind, "value": …}`` node.

    Raises:
        UnknownFormat: for a kind that this version does not know.
        Damaged: for a value that its kind cannot have.
    """
    kind = node.get("$")
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None:
        raise UnknownFormat(f"{shown(path)}: the node kind {kind!r:.60} is not known; a newer modelkeep may read it")
    try:
        if node.keys() != {"$", "value"}:
            raise TypeError("fields")
        return decoder(node["value"])
    except (TypeError, ValueError):
        raise Damaged(f"{shown(path)}: {node!r:.100} is no value of kind {kind!r}") from None


def _decode_int(value: Json) -> int:
    if not isinstance(value, str) or not _INT.fullmatch(value):
        raise TypeError("int")
    return int(value, 16 if "x" in value else 10)


def _decode_float(value: Json) -> float:
    if isinstance(value, float):
        return value
    if value in ("nan", "inf", "-inf"):
        return float(str(value))
    if not isinstance(value, str) or not re.fullmatch(r"nan:[0-9a-f]{16}", value):
        raise TypeError("float")
    number: float = struct.unpack("<d", struct.pack("<Q", int(value[4:], 16)))[0]
    if not math.isnan(number):
        raise ValueError("nan")
    return number


def _decode_bytes(value: Json) -> bytes:
    if not isinstance(value, str):
        raise TypeError("bytes")
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except binascii.Error:
        raise ValueError("base64") from None


def _decode_complex(value: Json) -> complex:
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError("complex")
    real, imag = (_decode_float(part.get("value") if isinstance(part, dict) else part) for part in value)
    return complex(real, imag)


_DECODERS: dict[str, Callable[[Json], object]] = {
    "int": _decode_int,
    "float": _decode_float,
    "bytes": _decode_bytes,
    "complex": _decode_complex,
}
