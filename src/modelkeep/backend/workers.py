"""A few threads that do what they are handed, also while the interpreter is shutting down.

`concurrent.futures` takes no more work once the main thread has ended; but that is when a script that never closed its
run has its last checkpoint made durable.
"""

import os
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

_NICE = 19
"""The scheduling priority of what is written in the background: what a training leaves of the processors is enough."""


def step_back() -> None:
    """Let the training have the processor where both want it; threads that this one starts follow it.

    Not the class of idle work: on a machine that others keep busy nothing would ever become durable.
    """
    if sys.platform == "linux":  # elsewhere the calls are about the whole process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_BATCH, os.sched_param(0))  # wakes nobody up


class Workers:
    """Threads that call functions in the order in which they are handed over.

    >>> with Workers(2, "docs") as workers:
    ...     workers.submit(max, 3, 5).result()
    5
    """

    def __init__(self, count: int, name: str) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None]
        self._queue = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Have ``function`` called with ``arguments``; its result or error is the future's."""
        future: Future[T] = Future()
        self._queue.put((future, function, arguments))
        return future

    def close(self) -> None:
        """Return when what is under way is done; what was not begun is cancelled. Closing twice is nothing."""
        while not self._queue.empty():
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                break
            if waiting is not None:
                waiting[0].cancel()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            future, function, arguments = job
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001  it belongs to who waits for the result
                future.set_exception(error)
            del job, future, function, arguments  # a state hangs on them, and the next job may be long in coming
