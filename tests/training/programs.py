"""Training programs in processes of their own, which tests talk to line by line, and kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

HEAD = """
import os, signal, sys
import numpy as np
import modelkeep as mk

keep = mk.open(sys.argv[1])

def tell(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # in one piece, also where two processes tell

def state(step):
    return {"weights": np.full(1000, step, np.float32)}
"""


class Program:
    """A process that runs ``HEAD`` and then ``body``, with the keep's path as its argument."""

    def __init__(self, keep: Path, body: str, **variables: str) -> None:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD + body, str(keep)],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env=environment,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; return exit code, output and errors."""
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
