"""Programs under Node: one process, asked a line of JSON at a time."""

import json
import os
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelkeep.errors import UsageError
from modelkeep.runtime.javascript.packages import modules, node
from modelkeep.runtime.javascript.session import SECONDS
from modelkeep.runtime.table import Script

_MAIN = Path(__file__).with_name("node.cjs")


class Node:
    """A process of Node, for one artifact; it ends with this object, or when this process does."""

    def __init__(self, path: Path, script: Script) -> None:
        place = str(path.absolute())
        self._where = {"file" if path.is_file() else "folder": place}
        self._name, self._lock = script.name, threading.Lock()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  it goes with this object
        self._child = subprocess.Popen(
            [str(node()), str(_MAIN)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
            env={**os.environ, "NODE_PATH": str(modules(script.packages[0]))},
        )  # fmt: skip
        weakref.finalize(self, _end, self._child, self._said)

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a job. Raises UsageError."""
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        late = threading.Timer(SECONDS, child.kill)
        with self._lock:
            late.start()
            try:
                child.stdin.write(json.dumps({**job, **self._where}).encode() + b"\n")
                child.stdin.flush()
                line = child.stdout.readline()
            except OSError:  # it has ended
                line = b""
            finally:
                late.cancel()
        if not line:
            self._said.seek(0)
            raise UsageError(f"{self._name} has ended under Node: {_last(self._said.read().decode(errors='replace'))}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "Error" in line]
    return (lines[-1] if lines else text.strip() or "it said nothing")[:400]


def _end(child: "subprocess.Popen[bytes]", said: Any) -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout, said):
        if stream is not None:
            stream.close()
