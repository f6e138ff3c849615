"""States as folders, as fast as they can be made: the bytes of each file lie once, and a state links to them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from .disk import Content, State

_SMALL = 64 << 10
"""Files up to this size stay for the next states; larger ones are seldom met again."""


class Shelf:
    """A place in memory, where there is one, for states."""

    def __init__(self) -> None:
        memory = "/dev/shm"  # where a sync costs nothing
        self.folder = Path(tempfile.mkdtemp(prefix="crash-", dir=memory if os.access(memory, os.W_OK) else None))
        self._pool = self.folder / "pool"
        self._pool.mkdir()
        self._count = 0

    def close(self) -> None:
        """Remove everything.

        Raises:
            AssertionError: some state has changed a file in place, so that other states were not what they should be.
        """
        try:
            changed = [one.name for one in self._pool.iterdir() if blake3(one.read_bytes()).hexdigest() != one.name]
            assert not changed, f"{len(changed)} files were changed in place by those who used a state"
        finally:
            shutil.rmtree(self.folder)

    @contextmanager
    def placed(self, state: State, *, copied: bool = False) -> Iterator[Path]:
        """A folder that holds ``state``, until it has been used; with ``copied`` its files may be written to."""
        self._count += 1
        folder = self.folder / f"state-{self._count}"
        folder.mkdir()
        for path in state.folders:
            os.mkdir(f"{folder}/{path}")
        for path, content in state.files:
            # A lock is written in place by who takes it.
            if copied or path.endswith("/lock") or len(content.data) > _SMALL:
                Path(f"{folder}/{path}").write_bytes(content.data)
            else:
                os.link(self._shelved(content), f"{folder}/{path}")
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def _shelved(self, content: Content) -> str:
        path = f"{self._pool}/{content.digest}"
        if not os.path.exists(path):
            Path(path).write_bytes(content.data)
        return path
