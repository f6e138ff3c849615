"""Puts a simulated machine under modelkeep, and takes it away again."""

import os
import random
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Any

from modelkeep.backend import local, objects, stream, syscalls
from modelkeep.store import documents, load, save, store
from modelkeep.training import environment, run, start, writer

from .bucket import obstore_of
from .disk import Disk, UnknownCall
from .inline import InlineWorkers, NoThread, inline_writer
from .kernel import Kernel, ctypes_of, fcntl_of, os_of, refusing, shutil_of

_NEVER = (
    "open", "mkdir", "unlink", "iterdir", "read_bytes", "read_text", "write_bytes", "write_text", "rename", "replace",
    "touch", "rmdir", "glob", "rglob", "chmod", "is_file", "resolve", "samefile", "stat", "lstat",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Proportions:
    """Small limits, so that small states take the ways of large ones."""

    large: int = 8 << 20
    """Bytes from which on a file is allocated and written past the page cache."""
    run: int = 16 << 10
    """Bytes that are allocated at a time."""
    buffer: int = 4 << 20
    """Bytes that are written past it at a time."""
    worth_threads: int = 8 << 20
    """Bytes from which on hashing is handed over."""
    shard_entries: int = 10_000


@contextmanager
def installed(
    kernel: Kernel,
    chance: random.Random,
    proportions: Proportions = Proportions(),
    late: float = 0.5,
) -> Iterator[None]:
    """modelkeep runs on ``kernel``, in one thread, and draws what it draws from ``chance``, in the block."""
    before: list[tuple[Any, str, Any]] = []
    for module, names in _replaced(kernel, chance, proportions, late).items():
        for name, value in names.items():
            before.append((module, name, getattr(module, name)))  # a name that is gone is an error: look here then
            setattr(module, name, value)
    before += [(local, "_LOCKS", local._LOCKS), (run, "_OPEN", run._OPEN)]
    kernel.become(kernel.process)
    try:
        yield
    finally:
        kernel.power_off()
        for process in kernel.processes:
            forget_runs(process.runs)
        for module, name, value in reversed(before):
            setattr(module, name, value)


def _replaced(
    kernel: Kernel, chance: random.Random, proportions: Proportions, late: float
) -> Mapping[Any, Mapping[str, Any]]:
    secrets = types.SimpleNamespace(token_hex=lambda count: chance.randbytes(count).hex())
    path = _twin_path(kernel) if isinstance(kernel.disk, Disk) else Path
    now = kernel.now
    return {
        syscalls: {
            "os": os_of(kernel), "fcntl": fcntl_of(kernel), "shutil": shutil_of(kernel), "ctypes": ctypes_of(kernel),
            "Path": path,
        },
        local: {
            "os": _os_of_local(kernel), "Path": path, "secrets": secrets, "time": refusing("time", {"time": now}),
            "_LARGE": proportions.large, "_RUN": proportions.run,
        },
        stream: {"Workers": InlineWorkers, "BUFFER_BYTES": proportions.buffer},
        save: {"Workers": InlineWorkers, "_WORTH_THREADS": proportions.worth_threads,
               "SHARD_ENTRIES": proportions.shard_entries},
        load: {"ThreadPoolExecutor": InlineWorkers},
        documents: {"ThreadPoolExecutor": InlineWorkers},
        objects: {"obstore": obstore_of(kernel), "secrets": secrets, "time": refusing("time", {"time": now})},
        store: {"secrets": secrets},
        start: {"secrets": secrets, "draw_seed": lambda: 7, "seed_generators": lambda _: None},
        environment: {"version": lambda: "0"},
        writer: {"threading": types.SimpleNamespace(Condition=threading.Condition, Thread=NoThread)},
        run: {"Writer": inline_writer(lambda: chance.random() < late, now)},
    }  # fmt: skip


def _os_of_local(kernel: Kernel) -> Any:
    """What `local` asks of `os` itself: who it is, and arithmetic with paths."""
    pure = {name: getattr(os.path, name) for name in ("abspath", "expanduser")}
    real = os.path.abspath if isinstance(kernel.disk, Disk) else os.path.realpath  # the twin has no symbolic links
    return refusing("os", {
        "path": refusing("os.path", {**pure, "realpath": real}),
        "getpid": lambda: kernel.process.pid,
        "uname": lambda: types.SimpleNamespace(nodename="twin"),
    })  # fmt: skip


def _twin_path(kernel: Kernel) -> type[PosixPath]:
    """Paths that look at the twin where `local` looks without `syscalls`."""

    def seen(path: Any) -> os.stat_result | None:
        try:
            return kernel.disk.lstat(path)  # type: ignore[no-any-return]
        except (FileNotFoundError, NotADirectoryError):
            return None

    def refuse(name: str) -> Callable[..., Any]:
        def refusing(*_: Any, **__: Any) -> Any:
            raise UnknownCall(f"Path.{name}: only exists, is_dir and is_symlink are known to tests/simulation")

        return refusing

    def is_dir(path: Any) -> bool:
        found = seen(path)
        return found is not None and found.st_mode & 0o170000 == 0o040000

    known = {"exists": lambda path: seen(path) is not None, "is_dir": is_dir, "is_symlink": lambda _: False}
    return type("TwinPath", (PosixPath,), {**{name: refuse(name) for name in _NEVER}, **known})


def forget_runs(runs: Mapping[Any, Any]) -> None:
    """Nobody waits for the runs of a dead process, not even at the end of this one."""
    for one in list(runs.values()):
        one._forget()
