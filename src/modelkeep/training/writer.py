"""The one background thread of a run: it makes checkpoints and metrics durable while training goes on."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from modelkeep.backend import step_back
from modelkeep.errors import UsageError

Row = dict[str, Any]

FLUSH_SECONDS = 1.0
"""Metrics wait at most this long: what a SIGKILL can cost of them."""


class Writer:
    """Does one save at a time, and writes metric rows in segments, in the order in which they were given.

    Rows are written at most once a second, before each save and at the close. An error is kept, and raised by the
    next call of `save`, `wait` or `close`; rows that could not be written are tried again.
    """

    def __init__(
        self, write_rows: Callable[[Sequence[Row]], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write_rows = write_rows
        self._clock = clock
        self._condition = threading.Condition()
        self._job: Callable[[], None] | None = None
        self._rows: list[Row] = []
        self._last_flush = clock() - FLUSH_SECONDS
        self._flush_asked = False
        self._busy = self._closing = False
        self._error: BaseException | None = None
        self._process = os.getpid()
        # A daemon, so that a script that ends without close() gets to its atexit handlers, which close.
        self._thread = threading.Thread(target=self._work, name="modelkeep-writer", daemon=True)
        self._thread.start()

    def save(self, job: Callable[[], None]) -> None:
        """Hand a save over. While another one is in flight the caller waits, so that one state is held, not many.

        Raises:
            BaseException: what went wrong in the background since the last call; ``job`` is then not taken.
        """
        with self._condition:
            self._wait_until_idle()
            self._raise_error()
            if self._closing:
                raise UsageError("the run is closed; open it again with keep.run(...)")
            self._job = job
            self._condition.notify_all()

    def wait_for_room(self) -> None:
        """Return when no save is in flight, whatever became of it: a state that is taken now is the only one held."""
        with self._condition:
            self._wait_until_idle()

    def log(self, row: Row) -> None:
        """Hand a metric row over; never waits and never raises."""
        with self._condition:
            self._rows.append(row)
            if len(self._rows) == 1:
                self._condition.notify_all()

    def wait(self) -> None:
        """Return when everything that was handed over is durable.

        Raises:
            BaseException: what went wrong in the background.
        """
        with self._condition:
            self._flush_asked = bool(self._rows)
            self._condition.notify_all()
            self._wait_until_idle()
            self._raise_error()

    def close(self) -> None:
        """Do what was handed over, then end the thread.

        Raises:
            BaseException: what went wrong in the background.
        """
        if os.getpid() != self._process:
            return  # a forked child has a copy of this object, but no thread
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join()
        with self._condition:
            self._raise_error()

    def _wait_until_idle(self) -> None:
        while self._thread.is_alive() and (self._busy or self._job is not None or self._flush_asked):
            # Woken now and then so that Ctrl-C is seen on systems where a lock cannot be interrupted.
            self._condition.wait(1.0)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        step_back()
        while True:
            with self._condition:
                while not self._is_due():
                    self._condition.wait(self._patience())
                job, rows = self._job, self._rows
                self._job, self._rows = None, []
                ends, self._busy, self._flush_asked = self._closing and job is None, True, False
            self._do(rows, job)
            job = None  # a whole state hangs on it, and the next one may be long in coming
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                if ends:
                    return

    def _is_due(self) -> bool:
        if self._job is not None or self._flush_asked or self._closing:
            return True
        return bool(self._rows) and self._patience() == 0

    def _patience(self) -> float | None:
        """Seconds until the rows that wait must be written; None when there are none. A clock may jump back."""
        if not self._rows:
            return None
        return min(FLUSH_SECONDS, max(0.0, self._last_flush + FLUSH_SECONDS - self._clock()))

    def _do(self, rows: list[Row], job: Callable[[], None] | None) -> None:
        try:
            if rows:
                self._flush(rows)
            if job is not None:
                job()
        except BaseException as error:  # noqa: BLE001  all of it belongs to the thread that trains, which raises it
            with self._condition:
                if self._error is None:
                    self._error = error

    def _flush(self, rows: list[Row]) -> None:
        self._last_flush = self._clock()
        try:
            self._write_rows(rows)
        except BaseException:
            with self._condition:
                self._rows = rows + self._rows
            raise
