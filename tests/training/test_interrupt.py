import os
import signal
import subprocess
import sys
import threading

import pytest

from modelkeep.training.interrupt import EXIT_SAVED, Signals, catch, leave

PROGRAM = """
import os, sys
from modelkeep.training.interrupt import catch, leave
with catch() as signals:
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "step\\n" and signals.pending is not None:
            print("saved", flush=True)
            leave(signals.pending)
        print("stepped", signals.pending, flush=True)
"""


class Program:
    """A training that makes a step for each line that it is sent."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, *options, "-c", PROGRAM]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, text: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self.line()

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


def test_sigterm_in_a_script_finishes_the_step_saves_and_exits_with_75() -> None:
    program = Program()
    program.process.send_signal(signal.SIGTERM)
    assert program.send("step") == "saved"
    code, errors = program.end()
    assert code == EXIT_SAVED == os.EX_TEMPFAIL == 75
    assert errors == ""


def test_ctrl_c_finishes_the_step_saves_and_raises_keyboard_interrupt() -> None:
    program = Program()
    program.process.send_signal(signal.SIGINT)
    assert program.send("step") == "saved"
    code, errors = program.end()
    assert code == -signal.SIGINT
    assert "KeyboardInterrupt" in errors


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT"), ("SIGINT", "SIGTERM")])
def test_a_second_signal_ends_at_once(first: str, second: str) -> None:
    program = Program()
    program.process.send_signal(signal.Signals[first])
    assert program.send("look") == f"stepped {int(signal.Signals[first])}"
    program.process.send_signal(signal.Signals[second])
    assert program.end()[0] == -signal.Signals[second]


def test_in_an_interactive_session_sigterm_leaves_it_alive() -> None:
    program = Program("-i")
    program.process.send_signal(signal.SIGTERM)
    assert program.send("step") == "saved"
    assert program.send("print(6 * 7)").endswith("42")
    _, errors = program.end()
    assert "KeyboardInterrupt" in errors


def test_a_signal_that_a_scheduler_sends_twice_is_one_request() -> None:
    now = [100.0]
    signals = Signals(clock=lambda: now[0])
    assert not signals.receive(signal.SIGTERM)
    assert not signals.receive(signal.SIGTERM)
    assert signals.receive(signal.SIGINT)
    now[0] = 101.0
    assert signals.receive(signal.SIGTERM)
    assert signals.pending == signal.SIGTERM


def test_a_second_ctrl_c_is_never_an_echo() -> None:
    signals = Signals(clock=lambda: 0.0)
    assert not signals.receive(signal.SIGINT)
    assert signals.receive(signal.SIGINT)


def test_the_handlers_of_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), catch():
        assert signal.getsignal(signal.SIGTERM) != before[1]
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_of_the_main_thread_nothing_is_held_back() -> None:
    seen: list[object] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with catch() as signals:
            seen.append((signals.pending, signal.getsignal(signal.SIGTERM) == before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, True)]


def test_leave_raises_what_the_signal_asks_for() -> None:
    with pytest.raises(KeyboardInterrupt):
        leave(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        leave(signal.SIGTERM)
    assert caught.value.code == EXIT_SAVED
