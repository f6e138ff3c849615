"""Files with the bytes of a disk, holes where it has none: building one costs what is in it, not how long it is."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .crashes import Crash
from .log import Event, Write

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system of the kernel: how one is made, and mounted with what a recording wants."""

    name: str
    megabytes: int
    make: tuple[str, ...]
    options: str
    sector: int
    """What its disk must write whole, at least for its superblock: torn in that, no file system mounts."""

    def format(self, image: Path) -> None:
        """Make an empty file system in a new file."""
        with image.open("wb") as file:
            file.truncate(self.megabytes << 20)
        subprocess.run([*self.make, str(image)], check=True, capture_output=True)
        subprocess.run(["fallocate", "--dig-holes", str(image)], check=True, capture_output=True)


EXT4 = FileSystem(
    "ext4",
    768,
    ("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"),
    "nodiscard,commit=1",
    1024,
)
XFS = FileSystem("xfs", 768, ("mkfs.xfs", "-q", "-f", "-K"), "nodiscard", 512)
BTRFS = FileSystem("btrfs", 768, ("mkfs.btrfs", "-q", "-f", "-K"), "nodiscard,commit=1", 4096)
ALL = (EXT4, XFS, BTRFS)


def copy(source: Path, target: Path) -> None:
    """Copy a file with its holes."""
    with source.open("rb") as old, target.open("wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        for first, past in _data(old.fileno(), size):
            os.lseek(old.fileno(), first, os.SEEK_SET)
            os.lseek(new.fileno(), first, os.SEEK_SET)
            while first < past:
                first += os.sendfile(new.fileno(), old.fileno(), None, min(_CHUNK, past - first))


def _data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    past = 0
    while past < size:
        try:
            first = os.lseek(descriptor, past, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        past = os.lseek(descriptor, first, os.SEEK_HOLE)
        yield first, past


class Builder:
    """Builds the images of crashes in the order of their flushes, from the image that the log began with."""

    def __init__(self, base: Path, log: Sequence[Event], folder: Path) -> None:
        self._durable = folder / "durable"
        copy(base, self._durable)
        self._image = folder / "image"
        self._log = log
        self._done = 0

    @contextmanager
    def build(self, crash: Crash) -> Iterator[Path]:
        """The image of ``crash``, as long as the block lasts."""
        self.advance(crash.flush)
        copy(self._durable, self._image)
        with self._image.open("r+b") as file:
            for part in crash.parts:
                event = self._log[part.index]
                assert isinstance(event, Write), "parts are of writes"
                os.pwrite(file.fileno(), event.data[part.first : part.past], event.offset + part.first)
        try:
            yield self._image
        finally:
            self._image.unlink()

    def advance(self, past: int) -> Path:
        """Make everything before the event at ``past`` durable; the file that has it."""
        assert past >= self._done, "crashes come in the order of their flushes"
        with self._durable.open("r+b") as file:
            for event in self._log[self._done : past]:
                if isinstance(event, Write):
                    os.pwrite(file.fileno(), event.data, event.offset)
        self._done = past
        return self._durable
