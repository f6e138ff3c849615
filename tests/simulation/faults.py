"""What befalls the calls of a simulated machine: drawn from a seed, by what each call may suffer."""

import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .disk import BLOCK, Disk
from .kernel import Act, Gone, Kernel

_SPACE = (errno.ENOSPC, errno.EDQUOT)
_GROWING = frozenset({"mkdir", "link", "pwrite", "posix_fallocate"})
_CHANGING = _GROWING | {"unlink", "rename", "renameat2", "fsync", "ftruncate"}
_ALL = _CHANGING | {"preadv", "scandir", "fstat"}
_REFUSALS: dict[str, tuple[int, ...]] = {
    "open": (errno.EIO, errno.EMFILE, errno.EACCES),
    "mkdir": (*_SPACE, errno.EIO, errno.EROFS),
    "link": (*_SPACE, errno.EIO, errno.EROFS),
    "unlink": (errno.EIO, errno.EROFS, errno.EACCES),
    "rename": (*_SPACE, errno.EIO),
    "renameat2": (*_SPACE, errno.EIO),
    "pwrite": (*_SPACE, errno.EIO),
    "fsync": (*_SPACE, errno.EIO),
    "ftruncate": (errno.EIO,),
    "posix_fallocate": (*_SPACE, errno.EOPNOTSUPP),
    "fchmod": (errno.EPERM, errno.EIO),
    "preadv": (errno.EIO,),
    "scandir": (errno.EIO, errno.EMFILE),
    "fstat": (errno.EIO,),
    "flock": (errno.ENOLCK,),
    "lstat": (errno.EIO,),
}
"""What a kernel may answer, by call. `close` is left out: Linux closes whatever it answers."""

_LOST: dict[str, tuple[int, ...]] = {
    "link": (errno.EEXIST, errno.EIO),
    "mkdir": (errno.EEXIST, errno.EIO),
    "unlink": (errno.ENOENT, errno.EIO),
    "rename": (errno.EIO,),
    "renameat2": (errno.EIO,),
    "pwrite": (errno.EIO,),
    "fsync": (errno.EIO,),
    "posix_fallocate": (errno.EIO,),
}
"""What is answered when the call was done and its acknowledgement got lost; EEXIST and ENOENT come of a repetition."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How often each thing happens, relative to the others; ``gap``: calls between two, on average."""

    gap: float = 150.0
    refuse: int = 6
    lose: int = 3
    outage: int = 2
    short: int = 1
    kill: int = 4
    cut: int = 4
    intrude: int = 6
    jump: int = 1


@dataclass(frozen=True, slots=True)
class Outage:
    """The disk refuses for a while."""

    code: int
    verbs: frozenset[str]
    until: int


def _nobody() -> None:
    """There is no other process."""


@dataclass(eq=False)
class Faults:
    """Decides what happens, and counts it."""

    kernel: Kernel
    chance: random.Random
    weights: Weights
    intrude: Callable[[], None] = _nobody
    """Lets another process do something in the middle of this one's call."""
    counts: Counter[str] = field(default_factory=Counter)
    _outage_now: Outage | None = None

    def __post_init__(self) -> None:
        names = ("refuse", "lose", "outage", "short", "kill", "cut", "intrude", "jump")
        self._kinds = [name for name in names for _ in range(getattr(self.weights, name))]
        self.kernel.on_event = self._on_event
        self.resume()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing happens inside: what is looked at is looked at in peace."""
        self._end_outage()
        self.kernel.next_event = -1
        try:
            yield
        finally:
            self.resume()

    def resume(self) -> None:
        """Let the next thing happen, some calls from now."""
        self.kernel.next_event = self.kernel.steps + 1 + int(self.chance.expovariate(1 / self.weights.gap))

    def _on_event(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        if self._outage_now is not None:
            return self._go_on_with(self._outage_now, verb)
        self.resume()
        kind = self.chance.choice(self._kinds)
        self.kernel.note(f"{kind} in {verb}")
        act: Act | None = getattr(self, f"_{kind}")(verb, arguments)
        return act

    # What may happen

    def _refuse(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        codes = _REFUSALS.get(verb)
        if codes is None:
            return None
        if verb == "open" and arguments[1] & os.O_CREAT:
            codes = (*codes, *_SPACE)
        if verb == "fsync" and isinstance(self.kernel.disk, Disk):
            self.kernel.disk.spoil(arguments[0])
        return self._answer(verb, self.chance.choice(codes))

    def _lose(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        codes = _LOST.get(verb)
        if codes is None:
            return self._refuse(verb, arguments)
        code = self.chance.choice(codes)
        self.counts[f"lost {verb}"] += 1
        self.kernel.process.harmed += 1

        def act(do: Callable[[], Any]) -> Any:
            do()
            raise OSError(code, os.strerror(code))

        return act

    def _outage(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        code = self.chance.choice((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))
        return self._go_on_with(self.begin_outage(code, self.chance.randrange(2, 120)), verb)

    def begin_outage(self, code: int, calls: int) -> Outage:
        """The disk is full, read-only or ill, for so many calls of whatever process."""
        verbs = _GROWING if code in _SPACE else _CHANGING if code == errno.EROFS else _ALL
        self._outage_now = Outage(code, verbs, self.kernel.steps + calls)
        self.kernel.disk.full = code in _SPACE
        self.counts[f"outage {errno.errorcode[code]}"] += 1
        return self._outage_now

    def _short(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        if verb == "preadv":
            descriptor, buffers, offset = arguments
            first = memoryview(buffers[0])
            self.counts["short"] += 1
            return lambda _: self.kernel.disk.preadv(descriptor, [first[: max(1, len(first) // 2)]], offset)
        if verb == "pwrite":
            self.counts["short"] += 1
            return lambda _: self._write_half(arguments)
        return self._refuse(verb, arguments)

    def _kill(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        self.counts["kill"] += 1
        self._stop_within(verb, arguments)
        self.kernel.kill(self.kernel.process)
        raise Gone

    def _cut(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        self.counts["cut"] += 1
        self._stop_within(verb, arguments)
        self.kernel.power_off()
        raise Gone

    def _intrude(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        process = self.kernel.process
        self.intrude()
        if process.dead:
            raise Gone
        # The call itself comes only now: what has befallen the disk meanwhile it meets as well.
        return self._go_on_with(self._outage_now, verb) if self._outage_now is not None else None

    def _jump(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        """A clock that was wrong is set."""
        self.counts["jump"] += 1
        self.jump(self.chance.choice((-1e5, -10.0, 10.0, 1e5, 1e5, 1e6)))
        return None

    def jump(self, seconds: float) -> None:
        """A collection may now take what is half written for the leftovers of yesterday, so its writer must fail."""
        self.kernel.clock = max(1e9, self.kernel.clock + seconds)
        for process in self.kernel.processes:
            process.harmed += 1

    # How it is done

    def _answer(self, verb: str, code: int) -> Act:
        self.counts[f"{errno.errorcode[code]} {verb}"] += 1
        self.kernel.process.harmed += 1

        def act(_: Callable[[], Any]) -> Any:
            raise OSError(code, os.strerror(code))

        return act

    def _go_on_with(self, outage: Outage, verb: str) -> Act | None:
        if self.kernel.steps >= outage.until:
            self._end_outage()
            self.resume()
            return None
        self.kernel.next_event = self.kernel.steps + 1
        self.kernel.process.harmed += 1  # a disk that tells that it is full does harm too
        return self._answer(verb, outage.code) if verb in outage.verbs else None

    def _end_outage(self) -> None:
        self._outage_now = None
        self.kernel.disk.full = False

    def _stop_within(self, verb: str, arguments: tuple[Any, ...]) -> None:
        """A death comes before the call, or within it."""
        if verb == "pwrite" and self.chance.random() < 0.7:
            self._write_half(arguments)

    def _write_half(self, arguments: tuple[Any, ...]) -> int:
        descriptor, data, offset = arguments
        half = len(data) // 2
        if offset % BLOCK == 0 and len(data) % BLOCK == 0:  # it may be a direct write, which is whole blocks
            half = half // BLOCK * BLOCK or len(data)
        written: int = self.kernel.disk.pwrite(descriptor, data[: max(1, half)], offset)
        return written
