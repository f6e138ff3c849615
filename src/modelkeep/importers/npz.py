"""``.npy`` and ``.npz``: arrays of numpy. The header is matched, not evaluated, and pickled objects are refused.

The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, UnknownFormat, Unsafe, UnsupportedState
from modelkeep.importers import archive
from modelkeep.importers.archive import Member
from modelkeep.importers.source import Source, read_bytes
from modelkeep.importers.weights import Catalogue, Weights, array_bytes
from modelkeep.snapshot.dtypes import logical_name

MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 1 << 16
_HEADER = re.compile(
    rb"\s*\{\s*'descr': '([<>|=]?)([a-zA-Z])([0-9]{0,9})((?:\[[0-9]{0,9}[a-zA-Z]{1,2}\])?)', "
    rb"'fortran_order': (True|False), 'shape': \(((?:[0-9]{1,19}L?, ?){0,65}(?:[0-9]{1,19}L?)?)\),? ?\}[ \n]*"
)


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the values of an array; ``start``: the bytes that it takes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    start: int


def parse_header(data: bytes, where: str) -> Header:
    r"""The header at the beginning of ``data``.

    Raises:
        Unsafe: an array of objects, which are pickled.
        UnknownFormat: records, or a version that is not known.
        Damaged: no such header.

    >>> parse_header(b"\x93NUMPY\x01\x00\x37\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", "x").shape
    (3,)
    """
    version = data[6:8]
    if data[:6] != MAGIC or version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise UnknownFormat(f"{where}: this is no array of numpy, or one of a newer version")
    width = 2 if version == b"\1\0" else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    start = 8 + width + length
    if length > _HEADER_BYTES - 12 or start > len(data):
        raise Damaged(f"{where}: the header should have {length:,} bytes, which it has not, or no array needs", where)
    text = data[8 + width : start]
    match = _HEADER.fullmatch(text)
    if not match:
        if re.search(rb"[|'\"]O[0-9]?['\"]", text):
            raise Unsafe(f"{where}: it holds Python objects, which loading would unpickle; save arrays of numbers")
        raise UnknownFormat(f"{where}: its header {text[:100]!r} is none of plain numbers")
    order, kind, size, unit, fortran, shape = match.groups()
    if kind == b"O":
        raise Unsafe(f"{where}: it holds Python objects, which loading would unpickle; save arrays of numbers")
    axes = tuple(int(axis.rstrip(b"L")) for axis in re.split(rb", ?", shape) if axis.strip())
    try:
        dtype = np.dtype((order + kind + size + unit).decode())
        logical_name(np.empty(0, dtype))
    except (TypeError, ValueError, OverflowError, UnsupportedState):
        raise UnknownFormat(
            f"{where}: values of kind {(kind + size + unit)!r} have no name here; numpy drops that of bfloat16 and "
            "the like, so save them as float32"
        ) from None
    return Header(dtype, axes, fortran == b"True", start)


def read_npy(source: Source, budget: Budget) -> Weights:
    """The one array of a ``.npy`` file, named ``array``.

    Raises:
        Damaged: it has not the bytes that its header says; and what `parse_header` raises.
        LimitExceeded: more than the budget allows.
    """
    header = parse_header(read_bytes(source, 0, min(source.size, _HEADER_BYTES)), source.name)
    catalogue = Catalogue(source.name, budget)
    member = Member("", archive.STORED, 0, source.size, source.size, 0, 0)
    _add(catalogue, "array", header, member, partial(_read_plain, source, header))
    return catalogue.weights("npy", {})


def read_npz(source: Source, members: dict[str, Member], budget: Budget) -> Weights:
    """The arrays of a ``.npz`` file, by their names.

    Raises:
        UnknownFormat: a member that is no array.
        Damaged: an array has not the bytes that its header says; and what `parse_header` raises.
        LimitExceeded: more than the budget allows.
    """
    catalogue = Catalogue(source.name, budget)
    for name, member in members.items():
        where = f"{source.name}: {name}"
        header = parse_header(archive.read_head(source, member, _HEADER_BYTES), where)
        _add(catalogue, name.removesuffix(".npy"), header, member, partial(_read_member, source, member, header))
    return catalogue.weights("npz", {})


def _add(catalogue: Catalogue, name: str, header: Header, member: Member, read: Any) -> None:
    dtype = logical_name(np.empty(0, header.dtype))
    where = f"{catalogue.where}: {name!r:.200}"
    nbytes = array_bytes(dtype, header.shape, where)
    if header.start + nbytes != member.size:
        raise Damaged(f"{where} should have {header.start + nbytes:,} bytes, and has {member.size:,}", catalogue.where)
    catalogue.add(name, dtype, header.shape, read)


def _read_plain(source: Source, header: Header) -> NDArray[Any]:
    flat = np.empty(math.prod(header.shape), header.dtype)
    if flat.nbytes:
        source.read_into(header.start, flat.view(np.uint8).data)
    return _shaped(flat, header)


def _read_member(source: Source, member: Member, header: Header) -> NDArray[Any]:
    """The values, unpacked straight into their array; the checksum is compared on the way."""
    flat = np.empty(math.prod(header.shape), header.dtype)
    room, offset = flat.view(np.uint8).data if flat.nbytes else memoryview(bytearray()), -header.start
    for block in archive.read_member(source, member):
        first = max(-offset, 0)
        if first < len(block):
            room[offset + first : offset + len(block)] = block[first:]
        offset += len(block)
    return _shaped(flat, header)


def _shaped(flat: NDArray[Any], header: Header) -> NDArray[Any]:
    """In the shape of the header, in C order and little-endian."""
    array = flat.reshape(header.shape, order="F" if header.fortran else "C")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(header.shape)
