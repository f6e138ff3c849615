"""What a doctor finds: checks, speeds, what they mean for checkpoints; and the tools of both doctors."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import perf_counter

from modelkeep.backend import Backend, LocalBackend, Workers
from modelkeep.errors import AlreadyExists
from modelkeep.snapshot.pieces import digest


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
    """From the disk, not from memory; of an object store from there."""
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


@contextmanager
def scratch(backend: Backend) -> Iterator[Callable[[str], str]]:
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
        if isinstance(backend, LocalBackend):
            with suppress(OSError):  # another doctor may be at work
                os.rmdir(backend.folder / "doctor")


def check_creation(backend: Backend, name: Callable[[str], str]) -> Check:
    """Whether a second writer of a name is refused, and the first one's bytes stay."""
    key = name("create")
    backend.create(key, b"first")
    try:
        backend.create(key, b"second")
    except AlreadyExists:
        if backend.read(key) == b"first":
            return Check("create if absent", "ok", "of two writers of one name the second is refused")
    advice = "keep elsewhere: two processes could overwrite each other's checkpoints"
    return Check("create if absent", "broken", "a second writer replaced an object", advice)


def hash_speed(chunk: memoryview) -> float:
    """Bytes a second on two threads, as saves and loads hash."""
    seconds: list[float] = []
    with Workers(2, "modelkeep-doctor") as workers:
        for _ in range(3):
            with timed(seconds):
                for done in [workers.submit(digest, chunk) for _ in range(16)]:
                    done.result()
    return 16 * len(chunk) / min(seconds)


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Append the seconds that the block takes."""
    started = perf_counter()
    yield
    into.append(perf_counter() - started)
