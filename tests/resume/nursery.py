"""Processes forked from one that has imported the frameworks: a start without the seconds that the imports take.

A nursery is started with the environment of the trainings and imports what they would; nothing of a framework has run
in it. Forks have the hashes of strings in common, so a caller starts some processes afresh as well; numbers drawn
before a seed is set are their own.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self


class Nursery:
    """Where ``script`` runs again and again, one process after the other, with ``modules`` imported before."""

    def __init__(self, script: Path, modules: list[str], environment: dict[str, str]) -> None:
        self._command = [sys.executable, __file__, str(script), *modules]
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def run(self, arguments: list[str], printed: Path) -> int:
        """Fork a process and wait for its end. Returns: its exit status, or minus the signal that ended it."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, env=self._environment, text=True, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, str(printed)]) + "\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline()
        assert status, f"{self._command} ended, with what it printed to stderr"
        return int(status)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._process is not None:
            if kind is not None:  # perhaps a time-out, and a process that hangs
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


def _serve(script: str, modules: list[str]) -> None:
    for module in modules:
        __import__(module)
    for line in sys.stdin:
        arguments, printed = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(script, arguments, printed)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(script: str, arguments: list[str], printed: str) -> None:
    import random
    import runpy

    import numpy as np

    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        opened = os.open(name, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.dup2(1, 2)
    random.seed()
    np.random.seed()
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    raise SystemExit


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
