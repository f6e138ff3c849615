"""Foreign bytes as the scanners see them: read by position, never by more than was asked for."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol, final

from modelkeep.budget import Budget
from modelkeep.errors import LimitExceeded
from modelkeep.scan.findings import Finding

ARCHIVES_DEEP = 6
"""Archives within archives that are opened; real models have two (`.keras` holds HDF5 within a zip)."""
IN_MEMORY = 64 << 20
"""Bytes of one compressed member that are unpacked at most; what lies behind is not looked at, and that is said."""


@dataclass(frozen=True, slots=True)
class Source:
    """Bytes with a name. ``file`` is seekable and starts at 0; ``whole`` is False when only its first part is here."""

    name: str
    file: BinaryIO
    size: int
    folder: Path | None = None
    whole: bool = True

    @classmethod
    def of_bytes(cls, name: str, data: bytes, *, whole: bool = True) -> "Source":
        """A source that lies in memory."""
        return cls(name, io.BytesIO(data), len(data), whole=whole)

    def read(self, offset: int, count: int) -> bytes:
        """At most ``count`` bytes from ``offset``; fewer at the end, none behind it."""
        if offset < 0 or count <= 0:
            return b""
        self.file.seek(offset)
        return self.file.read(count)

    def everything(self, limit: int) -> bytes | None:
        """All bytes, or None when they are more than ``limit``."""
        return None if self.size > limit else self.read(0, self.size)

    @property
    def suffix(self) -> str:
        """The ending of its name in lower case, with the dot, or the empty string."""
        return Path(self.name.rsplit("!", 1)[-1]).suffix.lower()

    @property
    def base(self) -> str:
        """The last part of its name."""
        return self.name.replace("!", "/").rsplit("/", 1)[-1]


class Look(Protocol):
    """How an archive has its members scanned, without knowing the other formats."""

    def __call__(self, source: Source, context: "Context") -> list[Finding]:
        """Findings of one member."""
        ...


@final
class Tally:
    """What one scan has used so far, over all nested archives."""

    def __init__(self) -> None:
        self.files = 0
        self.unpacked = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What a scanner may use, and how it hands on what it finds inside."""

    budget: Budget
    look: Look
    tally: Tally
    depth: int = 0

    def deeper(self) -> "Context":
        """The context for the members of an archive."""
        return replace(self, depth=self.depth + 1)

    def count_file(self, where: str) -> None:
        """Count one more file or member. Raises LimitExceeded."""
        self.tally.files += 1
        self.budget.check("entries", self.tally.files, where)

    def count_unpacked(self, nbytes: int, where: str) -> None:
        """Count bytes that were decompressed. Raises LimitExceeded."""
        self.tally.unpacked += nbytes
        if self.tally.unpacked > self.budget.nbytes:
            raise LimitExceeded(f"{where}: its archives unpack to more than the {self.budget.nbytes:,} bytes allowed")


@final
class Window(io.RawIOBase):
    """A part of a file as a file of its own, so that a stored member is read where it lies."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position within the part."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the part. Raises ValueError for a position before its start."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"position {at} lies before the start")
        self._at = at
        return at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read as much as there is, at most to the end of the part."""
        count = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._start + self._at)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def buffered(self) -> BinaryIO:
        """The same, with a buffer."""
        return io.BufferedReader(self)


def leaves_folder(name: str) -> bool:
    r"""Whether a name in a file, read as a path, would lead out of the folder that it is meant for.

    >>> [leaves_folder(name) for name in ("a/b.bin", "../b", "/etc/passwd", "C:\\x", "a/../../b", "http://h/x")]
    [False, True, True, True, True, True]
    """
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\", "~")) or ".." in parts or ":" in parts[0] or "\0" in name
