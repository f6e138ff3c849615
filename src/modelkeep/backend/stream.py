"""Bytes to a file past the page cache: through aligned buffers, from two threads.

What a checkpoint writes is not read again soon, and a page cache that is filled with it takes pages and time from the
training. Direct writes want offsets, lengths and memory at multiples of a block; so bytes are copied into buffers of a
few MiB, each of which is written while the next one is filled.
"""

import errno
import mmap
from collections import deque
from concurrent.futures import Future

from modelkeep.backend import syscalls
from modelkeep.backend.workers import Workers

BLOCK = 4096
"""What a direct write is aligned to: the largest block of the disks that there are."""

BUFFER_BYTES = 4 << 20
_BUFFERS = 4
_WRITERS = 2
"""Threads: enough to keep a disk busy while another copies."""


class Buffers:
    """Aligned buffers that are used again: the first touch of fresh memory costs more than a copy into it."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def take(self) -> mmap.mmap:
        """A buffer of `BUFFER_BYTES` bytes."""
        try:
            return self._free.pop()
        except IndexError:
            return mmap.mmap(-1, BUFFER_BYTES, access=mmap.ACCESS_COPY)  # private: a forked child has its own

    def give_back(self, buffer: mmap.mmap) -> None:
        """Let others use a buffer; a few are kept."""
        if len(self._free) < _BUFFERS:
            self._free.append(buffer)


class DirectStream:
    """Writes what it is handed behind one another, from ``start`` on, a multiple of `BLOCK`.

    Raises in all methods: OSError, of a write that was begun before.
    """

    def __init__(self, descriptor: int, direct: int, start: int, buffers: Buffers) -> None:
        """``descriptor`` and ``direct`` are the same file, opened for plain and for direct writes."""
        self._descriptor = descriptor
        self._direct = direct
        self._offset = start
        self._buffers = buffers
        self._buffer = buffers.take()
        self._filled = 0
        self._under_way: deque[tuple[Future[None], mmap.mmap]] = deque()
        self._threads = Workers(_WRITERS, "modelkeep-write")

    def append(self, data: memoryview) -> None:
        """Take bytes; they may be changed afterwards."""
        done = 0
        while done < len(data):
            part = data[done : done + BUFFER_BYTES - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            done += len(part)
            if self._filled == BUFFER_BYTES:
                self._hand_over()

    def close(self) -> None:
        """Return when all bytes are written; what fills no block goes the plain way."""
        try:
            while self._under_way:
                self._buffers.give_back(self._wait_for_one())
            whole = self._filled - self._filled % BLOCK
            if whole:
                self._write(self._buffer, self._offset, whole)
            syscalls.write(self._descriptor, self._buffer[whole : self._filled], self._offset + whole)
            self._buffers.give_back(self._buffer)
        finally:
            self.abort()

    def abort(self) -> None:
        """Write no more. Nothing when it was closed.

        The buffers go with the stream: after an error nobody can tell whose they are, and two must not share one.
        """
        self._threads.close()
        self._under_way.clear()
        if self._direct >= 0:
            syscalls.close(self._direct)
            self._direct = -1

    def _hand_over(self) -> None:
        self._under_way.append((self._threads.submit(self._write, self._buffer, self._offset), self._buffer))
        self._offset += BUFFER_BYTES
        self._filled = 0
        if len(self._under_way) >= _BUFFERS - 1:
            self._buffer = self._wait_for_one()
        else:
            self._buffer = self._buffers.take()

    def _wait_for_one(self) -> mmap.mmap:
        written, buffer = self._under_way[0]
        written.result()
        self._under_way.popleft()
        return buffer

    def _write(self, buffer: mmap.mmap, offset: int, size: int = BUFFER_BYTES) -> None:
        with memoryview(buffer) as view, view[:size] as part:
            try:
                syscalls.write(self._direct, part, offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                syscalls.write(self._descriptor, part, offset)  # it opens files so, and then cannot write
