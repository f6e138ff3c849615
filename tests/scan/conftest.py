"""What the tests of scans share: a canary that nothing may touch, and ways to write a file and scan it."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelkeep.budget import Budget
from modelkeep.scan import ScanReport, scan


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that the hostile files of a test would make if they were loaded; scanning must not."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "the scan ran what is in the file"


@pytest.fixture
def scanned(tmp_path: Path) -> Callable[..., ScanReport]:
    """Write bytes under a name into a folder of their own, and scan that file."""

    def write(data: bytes, name: str = "model.pkl", budget: Budget | None = None) -> ScanReport:
        path = tmp_path / "scanned" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return scan(path, budget=budget)

    return write


@pytest.fixture
def zipped() -> Callable[..., bytes]:
    """A zip archive of members, in memory."""

    def write(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return buffer.getvalue()

    return write


@pytest.fixture
def tarred() -> Callable[[dict[str, bytes]], bytes]:
    """A tar archive of members, in memory."""

    def write(members: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    return write
