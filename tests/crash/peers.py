"""What a crash leaves of checkpoints that other libraries save: prints a table in Markdown.

``python -m tests.crash.peers [NAME ...]``. Version 1 was saved and synced; version 2 is saved by a process that is
traced; each state that a crash may leave is loaded as a user would, and compared bit for bit with both.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .campaign import MODELS, Campaign, Outcome
from .choices import QUICK
from .peer_savers import PEERS
from .recording import Recording, record
from .strace import missing

SECONDS = 120
"""What a load may take."""

SECONDS_TO_IMPORT = 1200
"""What the first load of a process may take, which imports a framework, on a machine that does other things too."""

AT_MOST = 1000
"""Distinct states of one peer and model that are looked at."""

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
_TROUBLE = "lost: the load:"
ROOT = Path(__file__).parents[2]


class Looker:
    """A process that loads what lies in folders. One that hangs or dies over a state is replaced."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, folder: Path) -> str:
        """What is found in a folder."""
        if self._process is None:
            self._start()
        found = self._ask(folder, SECONDS)
        if found.startswith(_TROUBLE):
            self.close()
        return found

    def _ask(self, folder: Path, seconds: float) -> str:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{folder}\n".encode())
            process.stdin.flush()
            if not select.select([process.stdout], [], [], seconds)[0]:
                return f"{_TROUBLE} it did not end"
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        found: str = json.loads(line) if line else f"{_TROUBLE} the process died"
        return found

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        command = [sys.executable, "-m", "tests.crash.peer_savers", "look", self._name]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, **QUIET},
        )
        with tempfile.TemporaryDirectory() as nothing:
            found = self._ask(Path(nothing), SECONDS_TO_IMPORT)
        assert not found.startswith(_TROUBLE), f"{self._name} cannot be loaded at all: {found}"


def judge(found: str, said: Sequence[str]) -> list[str]:
    """The old version will do until the new one is acknowledged."""
    if found == "old":
        return ["gone: the new version was acknowledged"] if "ack" in said else []
    return [] if found == "new" else [found]


def recorded(name: str, folder: Path) -> Recording:
    """Version 1 is saved, then version 2 by a process that is watched."""
    disk = folder / "disk"
    disk.mkdir()
    program = [sys.executable, "-m", "tests.crash.peer_savers"]
    before = [*program, "before", name, str(disk)]
    done = subprocess.run(before, cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return record([*program, "act", name, str(disk)], disk, folder / "log", **QUIET)


def tried(name: str, folder: Path) -> dict[str, Outcome]:
    """What becomes of a peer's checkpoints under each model."""
    recording = recorded(name, folder)
    with Looker(name) as looker:
        campaign = Campaign(looker, judge, copied=True)
        return {model: campaign.run(recording, model, QUICK, at_most=AT_MOST) for model in MODELS}


HEAD = """| saver | kill: states / lost / wrong | ext4: states / lost / wrong / newest bad / gone | weak: the same |
| --- | --- | --- | --- |"""


def row(name: str, outcomes: dict[str, Outcome]) -> str:
    """One line of the table."""
    cells = [name]
    for model, outcome in outcomes.items():
        kinds = ("lost", "wrong") if model == "kill" else ("lost", "wrong", "older", "gone")
        counts: Counter[str] = outcome.faults
        cells.append(" / ".join(str(number) for number in (outcome.states, *(counts[kind] for kind in kinds))))
    return f"| {' | '.join(cells)} |"


def main(names: Sequence[str]) -> None:
    """Print the table, a line as soon as it is known."""
    if missing():
        sys.exit(missing())
    print(HEAD, flush=True)
    for name in names or PEERS:
        with tempfile.TemporaryDirectory() as folder:
            outcomes = tried(name, Path(folder))
        print(row(name, outcomes), flush=True)
        for outcome in outcomes.values():
            for told in outcome.told[:1]:
                print(f"  such as: {told[:600]}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
