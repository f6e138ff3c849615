"""Memory for copies that is used again: the first touch of fresh pages costs more than the copy into them."""

import mmap
import threading
import weakref

import numpy as np
from numpy.typing import NDArray

SMALL = 64 << 10
"""Copies of fewer bytes are left to numpy, whose allocator has such memory at hand."""


class Staging:
    """Gives out memory, and takes it back when the last view of it is gone.

    A training copies the same arrays at each save. What no longer has the size that is asked for is let go, so that
    as much is held as one state takes.
    """

    def __init__(self) -> None:
        self._guard = threading.RLock()  # a collection of garbage may give memory back while some is being taken
        self._free: dict[int, list[mmap.mmap]] = {}

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """Writable memory of ``nbytes`` bytes, at least 1, whose content is whatever was there."""
        with self._guard:
            free = self._free.get(nbytes)
            if free:
                memory = free.pop()
            else:
                self._free.clear()
                memory = mmap.mmap(-1, nbytes, access=mmap.ACCESS_COPY)  # private: a forked child has its own
        array = np.frombuffer(memory, np.uint8)
        # numpy makes every further view depend on this array, since its own base is none of numpy's
        weakref.finalize(array, self._give_back, nbytes, memory).atexit = False
        return array

    def _give_back(self, nbytes: int, memory: mmap.mmap) -> None:
        with self._guard:
            self._free.setdefault(nbytes, []).append(memory)


STAGING = Staging()
"""One for the process: whichever object copies, the memory is the machine's."""
