"""Small file systems of their own, to be filled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BLOCK = 4096


@contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[Path]:
    """Mount a new file system of ``size`` at ``folder``; the test is skipped where that may not be done."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, *, leaving: int = 0) -> Path:
    """Fill a file system up to ``leaving`` blocks; return the file that does."""
    filler = disk / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, bytes(BLOCK))
    except OSError:
        os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size // BLOCK - leaving) * BLOCK)
    finally:
        os.close(descriptor)
    return filler
