"""Bytes of a foreign file, read at offsets: never mapped, never past the end, never through what is no regular file."""

import io
import os
import stat
import weakref
from typing import Protocol

from modelkeep.errors import Damaged, NotFound, StorageError, Unsafe

BLOCK = 1 << 20
"""Bytes that are read at a time where all of them are looked at once."""


class Source(Protocol):
    """So many bytes with a name for messages. Reading is safe from several threads."""

    @property
    def name(self) -> str:
        """What a message calls it: the path, and the member within where it is part of an archive."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def read_into(self, offset: int, room: memoryview) -> None:
        """Fill ``room`` with the bytes from ``offset`` on. Raises Damaged where there are not that many."""


class File:
    """A regular file, held open so that it stays the same one until the last tensor has been read.

    Closed when nothing refers to it any more.
    """

    def __init__(self, path: str, *, follow: bool = True) -> None:
        """Open ``path`` for reading; without ``follow``, not when its last part is a symbolic link.

        Raises:
            NotFound: nothing is there.
            Unsafe: it is no regular file (a pipe or a device may block, or never end).
            StorageError: it cannot be opened.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            raise NotFound(f"{path}: there is no such file") from None
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise StorageError(f"{path}: this file cannot be opened: {error}") from None
        weakref.finalize(self, os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unsafe(f"{path}: this is no regular file; copy its content into one")
        self._descriptor, self.name, self.size = descriptor, path, status.st_size

    def read_into(self, offset: int, room: memoryview) -> None:
        """See `Source`."""
        done = 0
        while done < len(room):
            try:
                count = os.preadv(self._descriptor, [room[done : done + (1 << 30)]], offset + done)
            except OSError as error:
                raise StorageError(f"{self.name}: reading at byte {offset + done} failed: {error}") from None
            if not count:
                raise _too_short(self, offset, len(room))
            done += count


class Part:
    """The bytes of another source from ``start`` on, ``size`` of them."""

    def __init__(self, whole: Source, start: int, size: int, name: str) -> None:
        self._whole, self._start = whole, start
        self.name, self.size = name, size

    def read_into(self, offset: int, room: memoryview) -> None:
        """See `Source`."""
        if offset < 0 or offset + len(room) > self.size:
            raise _too_short(self, offset, len(room))
        self._whole.read_into(self._start + offset, room)


class Memory:
    """Bytes that are in memory already."""

    def __init__(self, data: bytes | bytearray, name: str) -> None:
        self._data = memoryview(data)
        self.name, self.size = name, len(data)

    def read_into(self, offset: int, room: memoryview) -> None:
        """See `Source`."""
        if offset < 0 or offset + len(room) > self.size:
            raise _too_short(self, offset, len(room))
        room[:] = self._data[offset : offset + len(room)]


def _too_short(source: Source, offset: int, count: int) -> Damaged:
    return Damaged(
        f"{source.name}: {count:,} bytes are wanted at byte {offset:,}, but it has {source.size:,}; it may have been "
        "cut off, copy it again",
        source.name,
    )


def read_bytes(source: Source, offset: int, count: int) -> bytes:
    """So many bytes from ``offset`` on; the size of the source is checked before they are allocated.

    Raises:
        Damaged: there are not that many.

    >>> read_bytes(Memory(b"abcdef", "x"), 2, 3)
    b'cde'
    """
    if offset < 0 or count < 0 or offset + count > source.size:
        raise _too_short(source, offset, count)
    room = bytearray(count)
    source.read_into(offset, memoryview(room))
    return bytes(room)


def stream(source: Source) -> io.BufferedReader:
    """The source as a binary file to read and seek in, for parsers that want one.

    >>> stream(Memory(b"abcdef", "x")).read(1 << 62)
    b'abcdef'
    """
    return _Reader(source)


class _Reader(io.BufferedReader):
    """A reader that allocates no more than is there, however much a parser was told to ask for."""

    def __init__(self, source: Source) -> None:
        super().__init__(_Stream(source), 1 << 16)
        self._size = source.size

    def read(self, count: int | None = -1, /) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if count is None or count < 0 else min(count, left))


class _Stream(io.RawIOBase):
    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source, self._position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def readinto(self, room: object) -> int:
        view = memoryview(room).cast("B")  # type: ignore[arg-type] # any buffer that can be written
        count = max(min(len(view), self._source.size - self._position), 0)
        self._source.read_into(self._position, view[:count])
        self._position += count
        return count
