"""Hostile files, opened in one process of their own that is watched: what it runs, opens and writes, and its memory.

Run as a script it takes a JSON list of cases on standard input and prints what became of each.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

MiB = 1 << 20
ROOM = 64 * MiB
"""What opening a hostile file may take beside the bytes of its budget."""

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


def run_cases(folder: Path, cases: dict[str, tuple[Path, dict]], warm: Path) -> dict[str, Outcome]:
    """Open each file within its budget in one child; ``warm`` is a good file, opened first so that imports are done."""
    request = {
        "folder": str(folder),
        "warm": str(warm),
        "cases": {name: [str(path), budget] for name, (path, budget) in cases.items()},
    }
    before = _listing(folder)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__],
        input=json.dumps(request), capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"the child died ({done.returncode}): {done.stderr[-4000:]}"
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
        if event == "open":
            path, flags = str(args[0]), args[2] if len(args) > 2 else 0
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not writes and os.path.realpath(path).startswith(self.folder):
                return
        self.events.append(f"{event} {args!r:.200}")


def _open(path: str, budget: dict) -> None:
    from modelkeep.budget import Budget
    from modelkeep.importers import open_weights

    weights = open_weights(path, Budget(**budget))
    for tensor in weights.tensors.values():
        tensor.read()


def main() -> None:
    """Open every case that standard input names."""
    import gc
    import time

    request = json.load(sys.stdin)
    watch = _Watch(os.path.realpath(request["folder"]))
    _open(request["warm"], {})
    for name, (path, budget) in request["cases"].items():
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        low, start = _peak(), time.perf_counter()
        error = message = ""
        watch.events, watch.on = [], True
        try:
            _open(path, budget)
        except BaseException as caught:  # noqa: BLE001  what escapes is what the test is about
            error, message = type(caught).__name__, str(caught)
        finally:
            watch.on = False
        line = {
            "name": name, "error": error, "message": message[:500], "peak": _peak() - low,
            "seconds": time.perf_counter() - start, "events": watch.events,
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
