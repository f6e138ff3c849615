"""A child process that measures, so that one framework's threads, arenas and settings do not touch another's figures.

The parent names a class; the child makes one object of it and calls its methods as it is told, one JSON line each.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self


class WorkerDied(RuntimeError):
    """The child ended, or its method raised; the message is what it wrote last."""


class Worker:
    """A child process with one object of ``module.name(**arguments)`` in it."""

    def __init__(self, target: str, *, env: Mapping[str, str] | None = None, **arguments: object) -> None:
        self._target = target
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", target, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_QUIET, **(env or {})},
            text=True,
        )

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the object and return what it returned.

        Raises:
            WorkerDied: it raised, or the child is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise WorkerDied(f"{self._target}: the child ended with {self._process.wait()} in {method}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerDied(f"{self._target}.{method}: {answer['error']}")
        return answer["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


# what frameworks say at import is not what is measured
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TF_ENABLE_ONEDNN_OPTS": "1"}


def _serve(target: str, arguments: dict[str, Any]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints must not look like an answer
    module, name = target.rsplit(".", 1)
    worker = getattr(importlib.import_module(module), name)(**arguments)
    for line in sys.stdin:
        method, *rest = json.loads(line)
        try:
            answer: dict[str, Any] = {"result": getattr(worker, method)(*rest)}
        except Exception as error:  # noqa: BLE001  the parent raises it again
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
