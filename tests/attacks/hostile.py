"""Hostile files, each opened in a process of its own that is watched: what it runs, opens and writes, and its memory.

Run as a script it takes a JSON list of cases on standard input and prints what became of each. Python's audit hooks
tell what Python does; what a library in C opens is told by the kernel, of the folder that the cases name outside
their own.
"""

import ctypes
import gc
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

MiB = 1 << 20
ROOM = 64 * MiB
"""What opening a hostile file may take beside the bytes of its budget."""

SECONDS = 60
"""After which a case that does not end is ended."""

MORE_MEMORY = 2 << 30
"""Address space that the child may take beside what it has once a good file has been read."""

_NEWNET = 0x40000000
_IN_NONBLOCK, _IN_TOUCHED = 0o4000, 0x3EF  # read, written, its metadata changed, opened, moved, made or deleted
_WATCHED = (
    "exec", "compile", "import", "open", "os.", "shutil.", "subprocess.", "socket.", "ctypes.", "marshal.loads",
    "pickle.find_class", "urllib.", "tempfile.",
)  # fmt: skip
_HARMLESS = ("os.scandir", "os.listdir", "os.walk")


@dataclass(frozen=True)
class Outcome:
    """``error``: the class and text of what was raised, ``peak``: bytes of memory that were added at the highest."""

    error: str
    message: str
    peak: int
    seconds: float
    events: list[str] = field(default_factory=list)


def outside(folder: Path) -> Path:
    """A folder beside ``folder`` with a file ``canary``, for cases to name: whoever touches it has followed one."""
    place = folder.with_name(f"{folder.name}-outside")
    place.mkdir(exist_ok=True)
    (place / "canary").write_text("alive " * 1000)
    return place


def run_cases(
    folder: Path, cases: dict[str, tuple[Path, dict]], warm: Path, how: str = "weights"
) -> dict[str, Outcome]:
    """Open each file within its budget; ``warm`` is a good file, opened first so that imports are done.

    ``how``: as ``weights``, or as a ``keep``.
    """
    request = {
        "folder": str(folder),
        "outside": str(outside(folder)),
        "warm": str(warm),
        "how": how,
        "cases": {name: [str(path), budget] for name, (path, budget) in cases.items()},
    }
    before = _listing(folder)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__],
        input=json.dumps(request), capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"the child died ({done.returncode}): {done.stdout[-300:]} {done.stderr[-4000:]}"
    assert _listing(folder) == before, "something was written"
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line.pop("name"): Outcome(**line) for line in lines}


def check_outcome(outcome: Outcome, errors: tuple[str, ...], budget: int) -> None:
    """A typed error of the kind that is due, nothing run or opened, memory within the budget, and at once."""
    assert outcome.error in errors, outcome
    assert outcome.events == [], outcome
    assert outcome.peak <= budget + ROOM, outcome
    assert outcome.seconds < 10, outcome


def _listing(folder: Path) -> list[tuple[str, int]]:
    found = [(str(path.relative_to(folder)), path.lstat()) for path in folder.rglob("*")]
    return sorted((name, status.st_mtime_ns) for name, status in found)


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


class _Watch:
    """Notes what a case does that opening a file has no need of."""

    def __init__(self, folder: str) -> None:
        self.folder, self.on, self.events = folder, False, []
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple) -> None:
        if not self.on or not event.startswith(_WATCHED) or event in _HARMLESS:
            return
        if event == "subprocess.Popen" and "modelkeep.hdf5_child" in args[1][-1]:
            return  # HDF5's library, which is told what it may read; the kernel tells if it opens more
        if event == "os.kill" or (event == "open" and isinstance(args[0], int)):
            return  # the end of that child, and its pipes
        if event == "open":
            path, flags = str(args[0]), args[2] if len(args) > 2 else 0
            if isinstance(flags, int) and flags & os.O_NOFOLLOW and os.path.islink(path):
                return  # it is refused by the kernel
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not writes and os.path.realpath(path).startswith(self.folder):
                return
        self.events.append(f"{event} {args!r:.200}")


class _Kernel:
    """Told by the kernel of whatever touches a folder or a file in it, Python or not."""

    def __init__(self, folder: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(_IN_NONBLOCK)
        assert self.descriptor >= 0
        assert libc.inotify_add_watch(self.descriptor, os.fsencode(folder), _IN_TOUCHED) >= 0

    def events(self) -> list[str]:
        """What was touched since it was last asked."""
        try:
            data = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return []
        found, offset = [], 0
        while offset < len(data):
            _, mask, _, length = struct.unpack_from("iIII", data, offset)
            name = data[offset + 16 : offset + 16 + length].rstrip(b"\0").decode()
            found.append(f"outside {name or 'the folder'} {mask:#x}")
            offset += 16 + length
        return found


def _confine() -> None:
    """No network, and no more memory than a case could have use for."""
    ctypes.CDLL(None).unshare(_NEWNET)  # where that is not allowed, the audit hook still tells of each socket
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MORE_MEMORY, size + MORE_MEMORY))


def _open_weights(path: str, budget: dict) -> None:
    from modelkeep.budget import Budget
    from modelkeep.importers import open_weights

    weights = open_weights(path, Budget(**budget))
    for tensor in weights.tensors.values():
        tensor.read()


def _open_keep(path: str, wanted: dict) -> None:
    """Load ``ref`` of a keep. A verification must find the damage too, and say so without an error."""
    import modelkeep
    from modelkeep.errors import ModelkeepError

    try:
        keep = modelkeep.open(path, create=False)
        keep.store.load(keep.snapshot(wanted.get("ref", "model:m@1")), limit_bytes=wanted.get("nbytes", MiB))
    except ModelkeepError:
        if wanted.get("verify"):
            assert not modelkeep.open(path, create=False).store.verify().ok, "verify finds nothing"
        raise


_HOW = {"weights": _open_weights, "keep": _open_keep}


def _try(name: str, path: str, budget: dict, watched: tuple[_Watch, _Kernel, str]) -> dict:
    """In a process of its own: open one file, and say what came of that."""
    watch, kernel, how = watched
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    low, start = _peak(), time.perf_counter()
    error = message = ""
    kernel.events()
    watch.events, watch.on = [], True
    signal.alarm(SECONDS)
    try:
        _HOW[how](path, budget)
    except BaseException as caught:  # noqa: BLE001  what escapes is what the test is about
        error, message = type(caught).__name__, str(caught)
    finally:
        watch.on = False
        signal.alarm(0)
    return {
        "name": name, "error": error, "message": message[:500], "peak": _peak() - low,
        "seconds": time.perf_counter() - start, "events": watch.events + kernel.events(),
    }  # fmt: skip


def main() -> None:
    """Open every case that standard input names, each in a fork of this process."""
    request = json.load(sys.stdin)
    watch, kernel = _Watch(os.path.realpath(request["folder"])), _Kernel(request["outside"])
    _HOW[request["how"]](request["warm"], {})
    _confine()
    for name, (path, budget) in request["cases"].items():
        child = os.fork()
        if not child:
            print(json.dumps(_try(name, path, budget, (watch, kernel, request["how"]))), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            died = {"name": name, "error": f"died: {status}", "message": "", "peak": 0, "seconds": 0.0}
            print(json.dumps(died), flush=True)


if __name__ == "__main__":
    main()
