"""The twin answers as the kernel does: the same calls, in any order, have the same results and the same errors."""

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkeep.backend import LocalBackend
from modelkeep.testing.backend_suite import BackendSuite

from .disk import BLOCK, Abilities, Disk, UnknownCall
from .kernel import Kernel, RealDisk, os_of
from .places import TwinPlace
from .power import Cut, after_cut

NAMES = ("a", "b", "folder", "folder/a", "folder/b", "folder/deep", "folder/deep/a", "a/below")
FLAGS = (
    os.O_RDONLY,
    os.O_RDONLY | os.O_DIRECTORY,
    os.O_RDWR,
    os.O_WRONLY | os.O_NOFOLLOW,
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_RDWR | os.O_CREAT,
)


class Caller:
    """Makes calls on a disk below a root, and tells what came of each as a value that two disks share."""

    def __init__(self, disk: Any, root: str) -> None:
        self.disk, self.root = disk, root
        self.descriptors: list[int] = []

    def call(self, verb: str, *arguments: Any) -> Any:
        try:
            return getattr(self, verb)(*arguments)
        except OSError as error:
            return error.errno

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def open(self, name: str, flags: int) -> Any:
        self.descriptors.append(self.disk.open(self.path(name), flags, 0o644))
        return "opened"

    def close(self, index: int) -> Any:
        return self.disk.close(self.descriptors.pop(index))

    def two(self, verb: str, one: str, other: str) -> Any:
        return getattr(self.disk, verb)(self.path(one), self.path(other))

    def one(self, verb: str, name: str) -> Any:
        return getattr(self.disk, verb)(self.path(name))

    def lstat(self, name: str) -> Any:
        return _seen(self.disk.lstat(self.path(name)))

    def fstat(self, index: int) -> Any:
        return _seen(self.disk.fstat(self.descriptors[index]))

    def scandir(self, name: str) -> Any:
        with self.disk.scandir(self.path(name)) as entries:
            return sorted((one.name, one.is_dir(follow_symlinks=False), _seen(one.stat())) for one in entries)

    def preadv(self, index: int, size: int, offset: int) -> Any:
        buffer = bytearray(size)
        return self.disk.preadv(self.descriptors[index], [memoryview(buffer)], offset), bytes(buffer)

    def on(self, verb: str, index: int, *rest: Any) -> Any:
        return getattr(self.disk, verb)(self.descriptors[index], *rest)


def _seen(status: os.stat_result) -> Any:
    kind = stat.S_IFMT(status.st_mode)
    return kind, (status.st_size, status.st_nlink, stat.S_IMODE(status.st_mode)) if kind == stat.S_IFREG else ()


def calls(chance: random.Random, count: int) -> Any:
    """Calls with names of little variety, and numbers of open files that the caller makes fit."""
    for _ in range(count):
        name, index, offset = chance.choice(NAMES), chance.random(), chance.randrange(0, 3 * BLOCK, 512)
        other = f"{name.rpartition('/')[0]}/{chance.choice('ab')}".lstrip("/")
        yield chance.choice(
            [
                ("open", name, chance.choice(FLAGS)), ("open", name, FLAGS[-1]), ("open", name, FLAGS[-2]),
                ("one", "mkdir", name), ("one", "unlink", name), ("two", "link", name, chance.choice(NAMES)),
                ("two", "rename", name, other), ("lstat", name), ("scandir", name), ("close", index),
                ("fstat", index), ("preadv", index, 700, offset),
                ("on", "pwrite", index, chance.randbytes(300), offset), ("on", "ftruncate", index, offset),
                ("on", "posix_fallocate", index, 0, offset + 1),
                ("on", "fsync", index), ("on", "fchmod", index, 0o444),
            ]
        )  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_the_twin_answers_as_the_kernel_does(tmp_path: Path, seed: int) -> None:
    os.umask(os.umask(0o022))
    disk = Disk(lambda: 0.0, Abilities())
    twin, real = Caller(disk, "/twin"), Caller(RealDisk(skip=("fsync",)), str(tmp_path))
    for verb, *arguments in calls(random.Random(seed), 300):
        count = len(twin.descriptors)
        if verb in ("close", "fstat", "preadv", "on"):
            if not count:
                continue
            where = 1 if verb == "on" else 0
            arguments[where] = int(arguments[where] * count)
        if verb == "two" and arguments[0] == "rename" and _is_folder(twin, arguments[1]):
            continue  # the twin refuses to know it
        expected, found = real.call(verb, *arguments), twin.call(verb, *arguments)
        assert found == expected, (verb, arguments)
    for descriptor in real.descriptors:
        real.disk.close(descriptor)


def _is_folder(caller: Caller, name: str) -> bool:
    found = caller.call("lstat", name)
    return isinstance(found, tuple) and found[0] == stat.S_IFDIR


def test_a_call_that_the_twin_does_not_know_is_loud() -> None:
    kernel = Kernel(Disk(lambda: 0.0, Abilities()))
    seen = os_of(kernel)
    ask: list[Callable[[], Any]] = [
        lambda: seen.sendfile,
        lambda: hasattr(seen, "copy_file_range"),
        lambda: seen.path.exists,
        lambda: seen.open("/twin/a", os.O_RDWR | os.O_APPEND),
    ]
    for question in ask:
        with pytest.raises(UnknownCall):
            question()


def after(cut: Cut, disk: Disk, seed: int = 0) -> Disk:
    return after_cut(disk, cut, random.Random(seed))


def test_what_was_synced_outlives_every_power_cut_and_what_was_not_none_that_takes_it() -> None:
    disk = Disk(lambda: 0.0, Abilities())
    one = disk.open("/twin/one", os.O_RDWR | os.O_CREAT)
    disk.pwrite(one, b"synced", 0)
    disk.fsync(one)
    disk.fsync(disk.open("/twin", os.O_RDONLY | os.O_DIRECTORY))
    disk.pwrite(one, b"cached", 0)
    disk.link("/twin/one", "/twin/two")
    for seed in range(50):
        for cut in Cut:
            left = after(cut, disk, seed)
            assert "one" in _names(left)
            assert _bytes(left, "one") in (b"synced", b"cached")
    assert _names(after(Cut.NOTHING, disk)) == {"one"}
    assert _bytes(after(Cut.NOTHING, disk), "one") == b"synced"
    assert _names(after(Cut.NAMES, disk)) == {"one", "two"}
    assert _bytes(after(Cut.NAMES, disk), "two") == b"synced"
    assert _bytes(after(Cut.BYTES, disk), "one") == b"cached"
    found = [after(Cut.SOME, disk, seed) for seed in range(100)]
    assert {(frozenset(_names(one)), _bytes(one, "one")) for one in found} == {
        (names, data) for names in (frozenset({"one"}), frozenset({"one", "two"})) for data in (b"synced", b"cached")
    }


def test_a_long_write_is_torn_at_pages_and_its_holes_hold_zeros_or_garbage() -> None:
    disk = Disk(lambda: 0.0, Abilities())
    disk.pwrite(disk.open("/twin/one", os.O_RDWR | os.O_CREAT), b"x" * 4 * BLOCK, 0)
    disk.fsync(disk.open("/twin", os.O_RDONLY | os.O_DIRECTORY))
    pages = set()
    for seed in range(200):
        data = _bytes(after(Cut.SOME, disk, seed), "one")
        pages |= {data[start : start + 1] for start in range(0, len(data), BLOCK)}
    assert {b"x", b"\0"} < pages


def test_a_sync_that_failed_is_never_made_good() -> None:
    disk = Disk(lambda: 0.0, Abilities())
    one = disk.open("/twin/one", os.O_RDWR | os.O_CREAT)
    disk.pwrite(one, b"lost", 0)
    disk.spoil(one)
    disk.fsync(one)
    disk.fsync(disk.open("/twin", os.O_RDONLY | os.O_DIRECTORY))
    assert _bytes(disk, "one") == b"lost"
    assert _bytes(after(Cut.ALL, disk), "one") == b""


def _names(disk: Disk) -> set[str]:
    with disk.scandir("/twin") as entries:
        return {one.name for one in entries}


def _bytes(disk: Disk, name: str) -> bytes:
    buffer = bytearray(5 * BLOCK)
    count = disk.preadv(disk.open(f"/twin/{name}", os.O_RDONLY), [memoryview(buffer)], 0)
    return bytes(buffer[:count])


class TestTheTwinAsABackend(BackendSuite):
    """The real `LocalBackend` keeps its promises on the twin too."""

    @pytest.fixture
    def backend(self):
        place = TwinPlace(random.Random(0))
        with place.installed():
            yield LocalBackend("/twin/keep")

    def reopen(self, backend):
        return LocalBackend("/twin/keep")
