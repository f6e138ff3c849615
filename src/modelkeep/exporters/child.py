"""A converter in a process of its own: it may crash, print and need another framework than ours has loaded.

What it is asked is a function of ours by its name and JSON; it answers in JSON, through a file.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from modelkeep import errors
from modelkeep.errors import Damaged, ModelkeepError, StorageError, UsageError

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
_TOLD = 1500
"""So many characters of what a child that died has said last are told."""


def ask(function: str, job: Mapping[str, Any], *, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What ``"module:function"`` answers to a job, in a new process with ``environment`` beside ours.

    Raises:
        ModelkeepError: that which the function raised, with its message.
        Damaged: the process has died; the last that it said is told.
    """
    with tempfile.TemporaryDirectory(prefix="modelkeep-ask-") as folder:
        answer = os.path.join(folder, "answer.json")
        line = [sys.executable, "-c", "from modelkeep.exporters.child import main; main()", function, answer]
        paths = os.pathsep.join(path for path in sys.path if path)
        surroundings = {**os.environ, **_QUIET, **(environment or {}), "PYTHONPATH": paths}
        try:
            child = subprocess.Popen(
                line, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise UsageError(f"the converter runs in a process of its own, which did not start: {error}") from None
        try:
            said, _ = child.communicate(json.dumps(job).encode())
        except BaseException:
            child.kill()
            child.wait()
            raise
        if child.returncode != 0 or not os.path.exists(answer):
            code = child.returncode
            how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
            told = said.decode(errors="replace")[-_TOLD:].strip()
            raise Damaged(f"{function.rpartition(':')[2]} {how}; the last that it said: {told or 'nothing'}")
        with open(answer, "rb") as file:
            found: dict[str, Any] = json.load(file)
    if "error" in found:
        raise getattr(errors, found["error"])(found["message"])
    return found


def main() -> None:
    """Be the child: answer what stdin asks."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it as it ends who asked
    function, place = sys.argv[1:3]
    job = json.load(sys.stdin)
    try:
        module, _, name = function.partition(":")
        found = getattr(importlib.import_module(module), name)(job)
    except ModelkeepError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    except OSError as error:
        found = {"error": StorageError.__name__, "message": f"{error.filename}: {error.strerror}"}
    with open(place, "w", encoding="utf-8") as file:
        json.dump(found, file)
