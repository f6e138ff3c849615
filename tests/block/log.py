"""What happened to a disk, in order: writes, flushes, and marks of the program that used it.

Order is all that a log has to keep: what a disk may hold after a power cut follows from it alone.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NAME = "disk"
"""The file that a recorder serves."""
MARK = "user.mark"
"""The extended attribute of a recorder's folder that takes marks."""

_HEAD = struct.Struct("<cQQ")
_WRITE, _FLUSH, _MARK = b"w", b"f", b"m"


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that the disk took, and may lose until the next flush."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything before is durable."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What the program said at this moment."""

    text: str


Event = Write | Flush | Mark


def pack(event: Event) -> bytes:
    """An event as it lies in a log file."""
    match event:
        case Write(offset, data):
            return _HEAD.pack(_WRITE, offset, len(data)) + data
        case Flush():
            return _HEAD.pack(_FLUSH, 0, 0)
        case Mark(text):
            data = text.encode()
            return _HEAD.pack(_MARK, 0, len(data)) + data


def read_log(path: Path) -> Sequence[Event]:
    """All events of a log file."""
    return tuple(unpack(path.read_bytes()))


def unpack(data: bytes) -> Iterator[Event]:
    """The events that were packed, in their order."""
    at = 0
    while at < len(data):
        kind, offset, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        body = data[at : at + size]
        at += size
        yield Write(offset, body) if kind == _WRITE else Flush() if kind == _FLUSH else Mark(body.decode())
