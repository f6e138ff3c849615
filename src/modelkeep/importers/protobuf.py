"""The wire format of protocol buffers, field by field: lengths are compared with what is there, nothing is built.

The format: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator

from modelkeep.errors import Damaged
from modelkeep.importers.source import Source, read_bytes

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10

Field = tuple[int, int, int, int]
"""Number, wire type, and: of a varint its value and 0, of the others where their bytes begin and end."""


def fields(source: Source, start: int = 0, stop: int | None = None) -> Iterator[Field]:
    """The fields of the message between two offsets.

    Raises:
        Damaged: cut off, groups (deprecated since 2008), or numbers that are none.
    """
    end = source.size if stop is None else stop
    while start < end:
        head = read_bytes(source, start, min(2 * _VARINT_BYTES, end - start))
        key, used = varint(head, 0, source.name)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise _broken(source.name, start)
        if wire == VARINT:
            value, used = varint(head, used, source.name)
            yield number, wire, value, 0
            start += used
            continue
        if wire == BYTES:
            length, used = varint(head, used, source.name)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise _broken(source.name, start)
        start += used
        if length > end - start:
            raise _broken(source.name, start)
        yield number, wire, start, start + length
        start += length


def varint(data: bytes, offset: int, where: str) -> tuple[int, int]:
    """A number of 7 bits a byte at ``offset`` and where it ends.

    Raises:
        Damaged: it does not end, or has more than 64 bits.

    >>> varint(bytes([0xac, 0x02]), 0, "x")
    (300, 2)
    """
    value = 0
    for index in range(_VARINT_BYTES):
        if offset + index >= len(data):
            break
        byte = data[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> 64:
                break
            return value, offset + index + 1
    raise _broken(where, offset)


def signed(value: int) -> int:
    """The 64 bits of a varint as a signed number.

    >>> signed((1 << 64) - 1)
    -1
    """
    return value - (1 << 64) if value >> 63 else value


def _broken(where: str, offset: int) -> Damaged:
    return Damaged(
        f"{where}: at byte {offset:,} there is no field of a protocol buffer; the file was cut or changed", where
    )
