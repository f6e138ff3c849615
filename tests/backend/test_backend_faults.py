"""A disk that is full, read-only or forbidden: the error says where, why and what to do, and nothing is lost."""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.backend import LocalBackend
from modelkeep.errors import StorageError

from ..disks import fill, small_file_system

MEGABYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MiB."""
    with small_file_system(tmp_path / "disk", "4m") as folder:
        yield folder


def test_a_full_disk_names_what_was_wanted_and_free_before_anything_is_written(small_disk: Path) -> None:
    place = LocalBackend(small_disk / "keep")
    place.create("a", b"committed")
    with pytest.raises(StorageError, match=r"keep/big: .*8,388,608 bytes.*free.*intact"):
        place.writer("big", size_hint=8 * MEGABYTE)
    assert os.listdir(small_disk / "keep") == ["a"]
    assert place.read("a") == b"committed"


def test_a_disk_that_fills_while_writing_keeps_what_was_committed_and_leaves_no_part(small_disk: Path) -> None:
    place = LocalBackend(small_disk / "keep")
    place.create("a", b"committed")
    with (
        pytest.raises(StorageError, match=r"no space left on device.*bytes.*free.*intact"),
        place.writer("big", size_hint=0) as writer,
    ):
        for _ in range(8):
            writer.append(memoryview(bytes(MEGABYTE)))
    assert os.listdir(small_disk / "keep") == ["a"]
    assert place.read("a") == b"committed"
    place.create("b", bytes(MEGABYTE))  # the space of what failed is free again
    assert place.size("b") == MEGABYTE


def test_small_objects_on_a_full_disk_are_refused_whole(small_disk: Path) -> None:
    place = LocalBackend(small_disk / "keep")
    made = 0
    with pytest.raises(StorageError, match=r"free"):
        for made in range(10_000):
            place.create(f"a/{made:05d}", bytes(10_000))
    assert [entry.size for entry in place.list("a")] == [10_000] * made
    assert len(os.listdir(small_disk / "keep" / "a")) == made


def test_a_lock_can_be_had_on_a_full_disk(small_disk: Path) -> None:
    """Who frees space needs it."""
    place = LocalBackend(small_disk / "keep")
    with place.lock("runs/a/lock"):
        pass
    fill(small_disk)
    with place.lock("runs/a/lock"):
        pass


def test_a_file_size_limit_is_a_storage_error_with_the_path(tmp_path: Path) -> None:
    place = LocalBackend(tmp_path / "keep")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match=r"big.*file too large"):
            place.create("big", bytes(50_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path / "keep") == []


def test_a_read_only_file_system_says_so(small_disk: Path) -> None:
    place = LocalBackend(small_disk / "keep")
    place.create("a", b"committed")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    again = LocalBackend(small_disk / "keep")
    with pytest.raises(StorageError, match=r"keep/.*read-only"):
        again.create("b", b"x")
    with pytest.raises(StorageError, match=r"new.*read-only"):
        again.create("new/b", b"x")
    with pytest.raises(StorageError, match=r"a: .*read-only"):
        again.delete("a")
    with pytest.raises(StorageError, match=r"lock.*read-only"), again.lock("runs/a/lock"):
        pass
    with pytest.raises(StorageError, match=r"other.*read-only"):
        LocalBackend(small_disk / "other")
    assert again.read("a") == b"committed"


FORBIDDEN = """
import os, sys
from modelkeep.backend import LocalBackend
from modelkeep.errors import StorageError
os.setgid(65534)  # after the imports: the interpreter may lie where only root reads
os.setuid(65534)
place = LocalBackend(sys.argv[1])
def lock():
    with place.lock("runs/a/lock"):
        pass
for name, verb in {
    "create": lambda: place.create("b", b"x"),
    "create below": lambda: place.create("new/b", b"x"),
    "read": lambda: place.read("secret/a"),
    "list": lambda: list(place.list("secret")),
    "delete": lambda: place.delete("a"),
    "lock": lock,
    "clean": lambda: place.clean("secret/a", 0),
}.items():
    try:
        verb()
        print(name, "was allowed")
    except StorageError as error:
        print(name, "->", error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; those of pytest are the owner's alone."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_who_may_not_is_told_the_path_and_to_look_at_permissions(open_folder: Path) -> None:
    place = LocalBackend(open_folder / "keep")
    place.create("a", b"committed")
    place.create("secret/a", b"committed")
    (open_folder / "keep" / "secret").chmod(0o700)
    child = _as_nobody(FORBIDDEN, open_folder / "keep")
    assert child.returncode == 0, child.stderr
    lines = child.stdout.splitlines()
    assert [line.split(" -> ")[0] for line in lines] == [
        "create", "create below", "read", "list", "delete", "lock", "clean",
    ]  # fmt: skip
    for line in lines:
        assert str(open_folder / "keep") in line
        assert "permission denied" in line
        assert "who owns" in line
    assert place.read("a") == b"committed"


CLOSED = """
import os, sys
from modelkeep.backend import LocalBackend
from modelkeep.errors import StorageError
os.setgid(65534)
os.setuid(65534)
try:
    LocalBackend(sys.argv[1])
except StorageError as error:
    print(error)
"""


def test_a_keep_in_a_folder_that_we_may_not_enter_is_a_storage_error(open_folder: Path) -> None:
    LocalBackend(open_folder / "closed" / "keep")
    (open_folder / "closed").chmod(0o700)
    child = _as_nobody(CLOSED, open_folder / "closed" / "keep")
    assert child.returncode == 0, child.stderr
    assert "closed/keep: permission denied" in child.stdout


def _as_nobody(script: str, keep: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script, str(keep)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
