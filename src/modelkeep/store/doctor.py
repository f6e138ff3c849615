"""What the place of a keep can do: whether it keeps its promises, how fast it is, and what a checkpoint will cost."""

import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from statistics import median

from modelkeep.backend import Backend, LocalBackend, Mount, mount_of, syscalls
from modelkeep.errors import StorageError
from modelkeep.store.doctor_objects import examine_objects
from modelkeep.store.measures import Check, Diagnosis, Speeds, check_creation, hash_speed, scratch, timed

PROBE_BYTES = 256 << 20
"""What is written, read and hashed to measure: enough to pass the disk's own buffers, little enough to be quick."""

_CHUNK = 4 << 20
_SYNCS = 15
_TOO_FAST = 30e-6
"""Seconds: no disk makes a block durable in less; flash with a battery takes about as long."""


def examine(backend: Backend, *, probe_bytes: int = PROBE_BYTES) -> Diagnosis:
    """Try and measure the place of a keep. What it writes to try lies below ``doctor/`` and is removed.

    Raises:
        StorageError: it cannot be written to, or is no folder.
    """
    if backend.requests > 1:
        return examine_objects(backend, probe_bytes)
    if not isinstance(backend, LocalBackend):
        raise StorageError(f"{backend.url} is in memory, so there is nothing to look at")
    mount = mount_of(backend.folder)
    with scratch(backend) as name:
        speeds = _measure(backend, name, probe_bytes)
        checks = (
            _file_system(mount),
            _creation(backend, name),
            _locks(backend, name),
            _durability(speeds.sync_seconds, mount),
        )
    free = syscalls.free_bytes(backend.folder)
    return Diagnosis(backend.url, mount.kind if mount else "unknown", free, checks, speeds)


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
    found = check_creation(backend, name)
    if found.verdict != "ok":
        return found
    way = "by hard links" if _has_links(backend, name) else "without hard links"
    return replace(found, found=f"{found.found}, {way}")


def _has_links(backend: LocalBackend, name: Callable[[str], str]) -> bool:
    key = name("linked")
    backend.create(key, b"x")
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
        with timed(writes), backend.writer(key, size_hint=total) as writer:
            for _ in range(count):
                writer.append(chunk)
            writer.commit()
        syscalls.forget(backend.folder / key)
        target = memoryview(bytearray(_CHUNK))
        with timed(reads):
            for index in range(count):
                backend.read_into(key, index * _CHUNK, target)
    syncs: list[float] = []
    for index in range(_SYNCS):
        with timed(syncs):
            backend.create(name(f"small-{index}"), b"x" * 512)
    return Speeds(total / min(writes), total / min(reads), hash_speed(chunk), median(syncs) / 2)
