"""SIGTERM and Ctrl-C during a training: finish the step, save, leave; a second signal ends at once.

A training that SIGTERM ended exits with code 75 (``EX_TEMPFAIL`` of sysexits.h): all is saved, run the same command
again. A scheduler can requeue on it.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

EXIT_SAVED = 75
"""The exit code after SIGTERM: saved; the same command goes on."""

_CAUGHT: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)

_ECHO_SECONDS = 1.0
"""``timeout`` (coreutils) and some schedulers send SIGTERM to the process and to its group: one request, twice."""


class Signals:
    """What has been asked since `catch` began. ``pending`` is the number of the first signal, or None."""

    __slots__ = ("_clock", "_since", "pending")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.pending: int | None = None
        self._clock = clock
        self._since = 0.0

    def receive(self, number: int) -> bool:
        """Take a signal; True when it is a second one, after which there is no waiting any more."""
        now = self._clock()
        if self.pending is None:
            self.pending, self._since = number, now
            return False
        is_echo = number == self.pending == signal.SIGTERM and 0 <= now - self._since < _ECHO_SECONDS
        return not is_echo


@contextmanager
def catch() -> Iterator[Signals]:
    """Hold SIGTERM and SIGINT back while the block runs: the first only sets ``signals.pending``.

    The loop inside looks at ``pending`` after each step, saves, and calls `leave`. A second signal ends at once: in a
    script, and of SIGTERM anywhere, the process dies of it; in a notebook Ctrl-C raises ``KeyboardInterrupt`` where the
    program stands. What was committed before stays whole either way. The handlers of before are put back at the end.
    Outside of the main thread, where Python allows no handlers, nothing is held back.

    >>> with catch() as signals:
    ...     signals.pending is None
    True
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before: dict[int, Any] = {}
    process = os.getpid()

    def receive(number: int, frame: FrameType | None) -> None:
        # A forked child (a data loader's worker) has inherited this handler, and must die as it is told to.
        if os.getpid() != process or signals.receive(number):
            _end_at_once(number, frame, before[number])

    try:
        for number in _CAUGHT:
            before[number] = signal.getsignal(number)
            signal.signal(number, receive)
        yield signals
    finally:
        for number, handler in before.items():
            # None: set by code that is not Python, and not to be had back through Python.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def leave_on_sigterm() -> Iterator[None]:
    """While the block runs SIGTERM is `leave`, at once: nothing waits for it, and open runs are closed on the way out.

    A handler that the program has set itself stays. Outside of the main thread nothing is done.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def receive(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            _end_at_once(number, frame, signal.SIG_DFL)
        leave(number)

    signal.signal(signal.SIGTERM, receive)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is receive:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def leave(number: int) -> NoReturn:
    """End the training after its state is saved, as the signal asked.

    Raises:
        KeyboardInterrupt: after SIGINT, and in an interactive session, which stays alive.
        SystemExit: with code 75 (`EXIT_SAVED`), after SIGTERM in a script.

    >>> leave(signal.SIGTERM)
    Traceback (most recent call last):
        ...
    SystemExit: 75
    """
    if number == signal.SIGTERM and not is_interactive():
        raise SystemExit(EXIT_SAVED)
    raise KeyboardInterrupt


def is_interactive() -> bool:
    """Whether a person is typing: a Python prompt, IPython or a notebook."""
    if sys.flags.interactive or getattr(sys, "ps1", None) is not None:
        return True
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def _end_at_once(number: int, frame: FrameType | None, before: Any) -> None:
    if is_interactive() and callable(before):
        before(number, frame)
        return
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
