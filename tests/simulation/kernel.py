"""The seam: what stands where `modelkeep.backend.syscalls` has `os`, `fcntl`, `shutil` and `ctypes`.

Every call goes by `Kernel.call`. What `faults` draws may fail it, do it and say that it failed, kill the process that
asked, cut the power, or first let another process do something. A call that nobody has taught is `UnknownCall`.
"""

import errno
import fcntl
import os
import shutil
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modelkeep.backend import local

from .disk import UnknownCall

VERBS = (
    "close", "fchmod", "fstat", "fsync", "ftruncate", "link", "lstat", "mkdir", "open", "posix_fadvise",
    "posix_fallocate", "preadv", "pwrite", "rename", "scandir", "unlink",
)  # fmt: skip
"""What the twin can do of `os`. To teach it another call: a method of `disk.Disk`, and its name here."""

_PURE = ("strerror", "fsencode", "fspath")
_CONSTANTS = tuple(name for name in dir(os) if name.startswith(("O_", "POSIX_FADV_")))


class Gone(BaseException):
    """The process that made the call does not live any more: it was killed, or the power was cut."""


@dataclass(eq=False)
class Process:
    """One process of a simulated machine, with what modelkeep holds for the whole of a process."""

    name: str
    pid: int
    dead: bool = False
    harmed: int = 0
    """How many of its calls were answered with an error that the disk did not mean, since it last heard of one."""
    descriptors: set[int] = field(default_factory=set)
    locks: Any = field(default_factory=lambda: local._Locks(threading.RLock()))  # one thread is all processes
    runs: dict[Any, Any] = field(default_factory=dict)


class RealDisk:
    """The kernel of this machine, with the verbs and numbering of descriptors of the twin.

    ``skip`` names calls that are left out: where only processes die, nobody needs to wait for a sync.
    """

    def __init__(self, skip: tuple[str, ...] = ()) -> None:
        self.full = False
        self._skip = skip
        self._real: dict[int, tuple[int, str]] = {}
        self._descriptor = 1 << 30

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        descriptor = os.open(path, flags, mode)
        self._descriptor += 1
        self._real[self._descriptor] = descriptor, os.fspath(path)
        return self._descriptor

    def close(self, descriptor: int) -> None:
        os.close(self._real.pop(descriptor)[0])

    def flock(self, descriptor: int, operation: int) -> None:
        fcntl.flock(self._real[descriptor][0], operation)

    def disk_usage(self, path: Any) -> Any:
        return shutil.disk_usage(path)

    def path_of(self, descriptor: int) -> str:
        return self._real[descriptor][1] if descriptor in self._real else ""

    def __getattr__(self, name: str) -> Any:
        if name not in VERBS:
            raise UnknownCall(name)
        real = getattr(os, name)
        if name in ("fchmod", "fstat", "fsync", "ftruncate", "posix_fadvise", "posix_fallocate", "preadv", "pwrite"):
            if name in self._skip:
                return lambda descriptor, *rest: None
            return lambda descriptor, *rest: real(self._real[descriptor][0], *rest)
        return real


Act = Callable[[Callable[[], Any]], Any]
"""What becomes of a call: given the call itself, it returns what the caller gets."""


class Kernel:
    """One machine: a disk, a clock, processes, and what befalls their calls."""

    def __init__(self, disk: Any, *, clock: float = 1.7e9) -> None:
        self.disk = disk
        self.clock = clock
        self.steps = 0
        """Calls so far."""
        self.next_event = -1
        """The step at which ``on_event`` is asked; never for -1."""
        self.on_event: Callable[[str, tuple[Any, ...]], Act | None] | None = None
        self.log: list[tuple[str, str, str]] | None = None
        """When it is a list: process, call and path of each call."""
        self.off = False
        """The power was cut, and nobody has put a disk in place since."""
        self._orphans: set[int] = set()
        """The files that were open in processes that died."""
        self.processes: list[Process] = []
        self.process = self.spawn("first")

    def now(self) -> float:
        """Each look at the clock takes a little."""
        self.clock += 0.001
        return self.clock

    def spawn(self, name: str) -> Process:
        """Start a process; it does nothing until `become`."""
        self.processes.append(Process(name, 1000 + len(self.processes)))
        return self.processes[-1]

    def become(self, process: Process) -> None:
        """What is called from now on is called by this process."""
        self.process = process
        _take_globals(process)

    def kill(self, process: Process) -> None:
        """End a process as SIGKILL does: its calls fail, its files are closed and its locks are free."""
        process.dead = True
        self._orphans |= process.descriptors
        for descriptor in process.descriptors:
            self.disk.close(descriptor)
        process.descriptors.clear()

    def power_off(self) -> None:
        """Every process ends; the disk is what somebody then puts in its place with `power_on`."""
        self.off = True
        for process in self.processes:
            self.kill(process)

    def note(self, text: str) -> None:
        """Put something into the log that is no call."""
        if self.log is not None:
            self.log.append((self.process.name, "***", text))

    def power_on(self, disk: Any) -> None:
        """Start again with this disk."""
        self.disk, self.off = disk, False

    def call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """Do what the code asks the kernel for, if nothing comes between."""
        process = self.process
        if process.dead:
            if verb == "close":
                return None  # its files were closed when it died
            raise Gone
        if verb == "close" and arguments[0] not in process.descriptors:
            if any(arguments[0] in other.descriptors for other in self.processes):
                raise AssertionError(f"{process.name} closes a file of another process")
            if arguments[0] in self._orphans:
                return None  # a forgotten object of a dead process lets go of what is closed: no call of this one
        self.steps += 1
        if self.log is not None:
            self.log.append((process.name, verb, self._path(verb, arguments)))
        act = None
        if self.steps == self.next_event and self.on_event is not None:
            act = self.on_event(verb, arguments)
        done = getattr(self.disk, verb)
        result = done(*arguments, **options) if act is None else act(lambda: done(*arguments, **options))
        if verb == "open":
            process.descriptors.add(result)
        elif verb == "close":
            process.descriptors.discard(arguments[0])
        return result

    def _path(self, verb: str, arguments: tuple[Any, ...]) -> str:
        where = arguments[1] if verb in ("link", "rename", "renameat2") else arguments[0]
        return self.disk.path_of(where) if isinstance(where, int) else os.fspath(where)


def _take_globals(process: Process) -> None:
    from modelkeep.training import run

    local._LOCKS = process.locks
    run._OPEN = process.runs


def refusing(name: str, known: dict[str, Any]) -> Any:
    """A module of these names; any other is an unknown call, also for ``hasattr``."""

    def unknown(_: Any, wanted: str) -> Any:
        raise UnknownCall(f"{name}.{wanted}: teach it to tests/simulation, see kernel.VERBS")

    return type(name, (), {"__getattr__": unknown, **{key: staticmethod(one) if callable(one) else one
                                                      for key, one in known.items()}})()  # fmt: skip


def os_of(kernel: Kernel) -> Any:
    """What `syscalls` gets for `os`."""
    known: dict[str, Any] = {name: getattr(os, name) for name in (*_PURE, *_CONSTANTS)}
    known |= {verb: _bound(kernel, verb) for verb in VERBS}
    known |= {"path": refusing("os.path", {"samestat": os.path.samestat}), "stat_result": os.stat_result}
    return refusing("os", known)


def fcntl_of(kernel: Kernel) -> Any:
    """What `syscalls` gets for `fcntl`."""
    constants = {"LOCK_EX": fcntl.LOCK_EX, "LOCK_NB": fcntl.LOCK_NB}
    return refusing("fcntl", {**constants, "flock": _bound(kernel, "flock")})


def shutil_of(kernel: Kernel) -> Any:
    """What `syscalls` gets for `shutil`."""
    return refusing("shutil", {"disk_usage": _bound(kernel, "disk_usage")})


def ctypes_of(kernel: Kernel) -> Any:
    """What `syscalls` gets for `ctypes`: a C library with renameat2 alone."""
    last = types.SimpleNamespace(errno=0)

    def renameat2(_from: int, source: bytes, _to: int, target: bytes, flags: int) -> int:
        if flags != 1:
            raise UnknownCall(f"renameat2 with the flags {flags}")
        try:
            kernel.call("renameat2", os.fsdecode(source), os.fsdecode(target))
        except OSError as error:
            last.errno = error.errno or errno.EIO
            return -1
        return 0

    library = refusing("libc", {"renameat2": renameat2})
    return refusing("ctypes", {"CDLL": lambda _name, use_errno: library, "get_errno": lambda: last.errno})


def _bound(kernel: Kernel, verb: str) -> Callable[..., Any]:
    call = kernel.call

    def bound(*arguments: Any, **options: Any) -> Any:
        return call(verb, *arguments, **options)

    return bound
