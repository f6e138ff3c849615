"""Where benches write: a folder below $TMPDIR that goes away, and a ring of the last few things saved there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import disk


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder below ``$TMPDIR``, removed at the end with all that is in it."""
    with tempfile.TemporaryDirectory(prefix="modelkeep-bench-") as name:
        yield Path(name)


class Ring:
    """Folders for what is saved: the last three stay, as retention leaves them; older ones go before a measurement."""

    def __init__(self, root: Path, keep: int = 3) -> None:
        self._root = root
        self._keep = keep
        self._made: list[Path] = []

    def next(self) -> Path:
        """A path that does not exist, in a folder of its own."""
        while len(self._made) >= self._keep:
            shutil.rmtree(self._made.pop(0))
        place = Path(tempfile.mkdtemp(dir=self._root))
        self._made.append(place)
        return place / "saved"


def settle() -> None:
    """Wait until what others left to be written is written, so that no contender pays for the one before it."""
    os.sync()


def hand_on_pages(root: Path, nbytes: int) -> None:
    """Write and unlink a file: its warm pages are what the next writer gets."""
    path = root / "handed-on"
    chunk = memoryview(bytes(disk.CHUNK))
    disk.write_plain(path, [chunk] * max(1, nbytes // disk.CHUNK))
    path.unlink()
