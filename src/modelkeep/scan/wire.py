"""Protocol buffers, read field by field: no schema, no recursion, nothing copied."""

from collections.abc import Iterator
from typing import NamedTuple


class Field(NamedTuple):
    """One field of a message: a number for wire types 0, 1 and 5, bytes for 2."""

    number: int
    value: "int | memoryview"


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10


def fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message in their order. Raises ValueError where it breaks."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"field 0 at byte {at}")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield Field(number, value)
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in {_FIXED64, _FIXED32}:
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if size > len(message) - at:
            raise ValueError(f"a field of {size:,} bytes with {len(message) - at:,} left")
        part = message[at : at + size]
        at += size
        yield Field(number, part if wire == _BYTES else int.from_bytes(part, "little"))


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for index in range(_VARINT_BYTES):
        if at >= len(message):
            raise ValueError("it ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than {_VARINT_BYTES} bytes")


def messages(message: memoryview, *path: int) -> Iterator[memoryview]:
    """Yield the messages (or bytes) that lie at ``path``, a field number for each level."""
    for field in fields(message):
        if field.number == path[0] and isinstance(field.value, memoryview):
            if len(path) == 1:
                yield field.value
            else:
                yield from messages(field.value, *path[1:])


def text(message: memoryview, number: int) -> str:
    """The last text of this number (as protobuf reads it), or the empty string."""
    last = ""
    for value in messages(message, number):
        last = bytes(value[:4096]).decode("utf-8", "replace")
    return last


def numbers(message: memoryview, number: int) -> list[int]:
    """All numbers of a repeated field, packed or not."""
    found: list[int] = []
    for field in fields(message):
        if field.number == number and isinstance(field.value, int):
            found.append(field.value)
        elif field.number == number and isinstance(field.value, memoryview):
            at = 0
            while at < len(field.value):
                value, at = _varint(field.value, at)
                found.append(value)
    return found
