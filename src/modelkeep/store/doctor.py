"""What the place of a keep can do: whether it keeps its promises, how fast it is, and what a checkpoint will cost."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from modelkeep.backend import Backend, LocalBackend, Mount, Workers, mount_of, syscalls
from modelkeep.errors import AlreadyExists, StorageError
from modelkeep.snapshot.pieces import digest

PROBE_BYTES = 256 << 20
"""What is written, read and hashed to measure: enough to pass the disk's own buffers, little enough to be quick."""

_CHUNK = 4 << 20
_SYNCS = 15
_TOO_FAST = 30e-6
"""Seconds: no disk makes a block durable in less; flash with a battery takes about as long."""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise that a keep rests on."""

    name: str
    verdict: str
    """``"ok"``, ``"unsure"`` (it depends on what cannot be seen from here) or ``"broken"``."""
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Speeds:
    """What was measured, in bytes a second; each the better of two."""

    write: float
    """Durable: until fsync has returned."""
    read: float
    """From the disk, not from memory."""
    hash: float
    """On two threads, as saves and loads do it."""
    sync_seconds: float
    """A small write and its fsync: the median of some."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What checkpoints of a size will cost here."""

    save_seconds: float
    """Until one is durable; training goes on meanwhile."""
    load_seconds: float
    disk_bytes: int
    """What they take, with the one that is being written."""
    busy: float
    """The part of the time in which the background writer works, 1 being all of it."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found."""

    place: str
    file_system: str
    free_bytes: int | None
    checks: tuple[Check, ...]
    speeds: Speeds

    @property
    def ok(self) -> bool:
        """Whether no promise is broken."""
        return all(check.verdict != "broken" for check in self.checks)

    def cost(self, nbytes: int, *, seconds: float, keep: int = 3) -> Cost:
        """What a checkpoint of ``nbytes`` bytes every ``seconds`` costs, ``keep`` of them staying."""
        save = nbytes / min(self.speeds.write, self.speeds.hash) + 5 * self.speeds.sync_seconds
        load = nbytes / min(self.speeds.read, self.speeds.hash)
        return Cost(save, load, nbytes * (keep + 1), save / seconds)


def examine(backend: Backend, *, probe_bytes: int = PROBE_BYTES) -> Diagnosis:
    """Try and measure the place of a keep. What it writes to try lies below ``doctor/`` and is removed.

    Raises:
        StorageError: it cannot be written to, or is no folder.
    """
    if not isinstance(backend, LocalBackend):
        raise StorageError(f"{backend.url} is no folder of this machine, so there is no disk to look at")
    mount = mount_of(backend.folder)
    with _scratch(backend) as name:
        speeds = _measure(backend, name, probe_bytes)
        checks = (
            _file_system(mount),
            _creation(backend, name),
            _locks(backend, name),
            _durability(speeds.sync_seconds, mount),
        )
    free = syscalls.free_bytes(backend.folder)
    return Diagnosis(backend.url, mount.kind if mount else "unknown", free, checks, speeds)


@contextmanager
def _scratch(backend: LocalBackend) -> Iterator[Callable[[str], str]]:
    """Gives names for objects to try with, all of which are gone afterwards."""
    prefix, made = f"doctor/{secrets.token_hex(4)}", list[str]()

    def name(suffix: str) -> str:
        made.append(f"{prefix}-{suffix}")
        return made[-1]

    try:
        yield name
    finally:
        for key in made:
            backend.delete(key)
        with suppress(OSError):  # another doctor may be at work
            os.rmdir(backend.folder / "doctor")


def _file_system(mount: Mount | None) -> Check:
    if mount is None:
        return Check("file system", "unsure", "this system does not tell what the folder lies on")
    if mount.is_memory:
        advice = "name a folder on a disk: `--keep`, or $MODELKEEP_KEEP"
        return Check("file system", "broken", f"{mount.kind} is memory: a power cut or a reboot loses all", advice)
    if mount.dangers:
        return Check(
            "file system", "broken", f"{mount.kind}: {'; '.join(mount.dangers)}", "mount it without the option"
        )
    if mount.is_remote:
        found = (
            f"{mount.kind} is a network's or another program's: whether fsync and locks hold is up to what is behind"
        )
        return Check("file system", "unsure", found, "train on a local disk where you can")
    return Check("file system", "ok", mount.kind)


def _creation(backend: LocalBackend, name: Callable[[str], str]) -> Check:
    key = name("create")
    backend.create(key, b"first")
    try:
        backend.create(key, b"second")
    except AlreadyExists:
        if backend.read(key) == b"first":
            way = "by hard links" if _has_links(backend, key, name) else "without hard links"
            return Check("create if absent", "ok", f"of two writers of one name the second is refused, {way}")
    advice = "use another file system: two processes could overwrite each other's checkpoints"
    return Check("create if absent", "broken", "a second writer replaced an object", advice)


def _has_links(backend: LocalBackend, key: str, name: Callable[[str], str]) -> bool:
    try:
        os.link(backend.folder / key, backend.folder / name("link"))
    except OSError:
        return False
    return True


def _locks(backend: LocalBackend, name: Callable[[str], str]) -> Check:
    path = backend.folder / name("lock")
    first, second = syscalls.open_lock(path), syscalls.open_lock(path)
    try:
        held = syscalls.try_lock(first)
        refused = not syscalls.try_lock(second)
    except OSError as error:
        return Check("locks", "broken", f"{os.strerror(error.errno or 0).lower()}", "use a local disk")
    finally:
        syscalls.close(first)
        syscalls.close(second)
    if held and refused:
        return Check("locks", "ok", "one writer of a run at a time, let go of by the kernel when a process dies")
    return Check("locks", "broken", "two holders of one lock", "never start a run twice, or use a local disk")


def _durability(sync_seconds: float, mount: Mount | None) -> Check:
    if "eatmydata" in os.environ.get("LD_PRELOAD", ""):
        return Check("fsync", "broken", "libeatmydata is preloaded and swallows every fsync", "start without it")
    found = f"a small write is durable in {sync_seconds * 1e3:.2f} ms"
    if sync_seconds < _TOO_FAST and not (mount and mount.is_memory):
        advice = "look whether a virtual disk or a controller without a battery ignores flushes"
        return Check("fsync", "unsure", f"{found}: faster than disks are", advice)
    return Check("fsync", "ok", found)


def _measure(backend: LocalBackend, name: Callable[[str], str], nbytes: int) -> Speeds:
    chunk = memoryview(secrets.token_bytes(_CHUNK))
    count = max(1, nbytes // _CHUNK)
    total = count * _CHUNK
    writes: list[float] = []
    reads: list[float] = []
    for turn in ("first", "second"):
        key = name(turn)
        with _timed(writes), backend.writer(key, size_hint=total) as writer:
            for _ in range(count):
                writer.append(chunk)
            writer.commit()
        syscalls.forget(backend.folder / key)
        target = memoryview(bytearray(_CHUNK))
        with _timed(reads):
            for index in range(count):
                backend.read_into(key, index * _CHUNK, target)
    syncs: list[float] = []
    for index in range(_SYNCS):
        with _timed(syncs):
            backend.create(name(f"small-{index}"), b"x" * 512)
    return Speeds(total / min(writes), total / min(reads), _hash_speed(chunk), median(syncs) / 2)


def _hash_speed(chunk: memoryview) -> float:
    seconds: list[float] = []
    with Workers(2, "modelkeep-doctor") as workers:
        for _ in range(3):
            with _timed(seconds):
                for done in [workers.submit(digest, chunk) for _ in range(16)]:
                    done.result()
    return 16 * _CHUNK / min(seconds)


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    started = perf_counter()
    yield
    into.append(perf_counter() - started)
