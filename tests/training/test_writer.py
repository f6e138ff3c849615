import contextlib
import os
import threading
from collections.abc import Callable, Sequence

import pytest

from modelkeep.errors import StorageError, UsageError
from modelkeep.training.writer import Row, Writer


class Disk:
    """What a writer writes to: it notes the order, waits at a gate, and fails when it is told to."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.fails = False

    def rows(self, rows: Sequence[Row]) -> None:
        if self.fails:
            raise StorageError("no space left")
        self.done.append([row["n"] for row in rows])

    def job(self, name: str) -> Callable[[], None]:
        def save() -> None:
            self.reached.set()
            assert self.gate.wait(30)
            if self.fails:
                raise StorageError("no space left")
            self.done.append(name)

        return save


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_what_was_handed_over_is_done_when_wait_returns_and_in_order(disk: Disk) -> None:
    writer = Writer(disk.rows)
    for name in "abc":
        writer.save(disk.job(name))
    writer.wait()
    assert disk.done == ["a", "b", "c"]
    writer.close()


def test_rows_are_written_before_the_save_that_follows_them(disk: Disk) -> None:
    clock = Clock()
    writer = Writer(disk.rows, clock=clock)
    disk.gate.clear()
    writer.save(disk.job("first"))
    assert disk.reached.wait(30)
    writer.log({"n": 1})
    writer.log({"n": 2})
    disk.gate.set()
    writer.save(disk.job("second"))
    writer.close()
    assert disk.done == ["first", [1, 2], "second"]


def test_only_one_save_is_in_flight_and_the_caller_of_the_next_waits(disk: Disk) -> None:
    writer = Writer(disk.rows)
    disk.gate.clear()
    writer.save(disk.job("a"))
    assert disk.reached.wait(30)
    second = threading.Thread(target=writer.save, args=(disk.job("b"),))
    second.start()
    second.join(0.05)
    assert second.is_alive()
    disk.gate.set()
    second.join(30)
    assert not second.is_alive()
    writer.close()
    assert disk.done == ["a", "b"]


@pytest.mark.parametrize("call", ["save", "wait", "close"])
def test_an_error_of_the_background_is_raised_at_the_next_call_and_once(disk: Disk, call: str) -> None:
    writer = Writer(disk.rows)
    disk.fails = True
    writer.save(disk.job("lost"))
    calls: dict[str, Callable[[], None]] = {
        "save": lambda: writer.save(disk.job("not taken")),
        "wait": writer.wait,
        "close": writer.close,
    }
    with pytest.raises(StorageError, match="no space"):
        calls[call]()
    disk.fails = False
    writer.close()
    assert disk.done == []


def test_a_writer_goes_on_after_an_error(disk: Disk) -> None:
    writer = Writer(disk.rows)
    disk.fails = True
    writer.save(disk.job("lost"))
    with pytest.raises(StorageError):
        writer.wait()
    disk.fails = False
    writer.save(disk.job("kept"))
    writer.close()
    assert disk.done == ["kept"]


def test_rows_that_could_not_be_written_are_written_later(disk: Disk) -> None:
    writer = Writer(disk.rows, clock=Clock())
    disk.fails = True
    writer.log({"n": 1})
    with pytest.raises(StorageError):
        writer.wait()
    disk.fails = False
    writer.log({"n": 2})
    with contextlib.suppress(StorageError):  # tried once more before the disk had space
        writer.close()
    assert [row for one in disk.done if isinstance(one, list) for row in one] == [1, 2]


def test_rows_within_a_second_are_one_segment(disk: Disk) -> None:
    clock = Clock()
    writer = Writer(disk.rows, clock=clock)
    writer.log({"n": 0})
    writer.wait()
    for n in range(1, 100):
        writer.log({"n": n})
    writer.close()
    assert disk.done == [[0], list(range(1, 100))]


def test_a_clock_that_jumps_back_does_not_hold_rows_back(disk: Disk) -> None:
    clock = Clock()
    written = threading.Event()

    def rows(rows: Sequence[Row]) -> None:
        disk.rows(rows)
        if any(row["n"] == 2 for row in rows):
            written.set()

    writer = Writer(rows, clock=clock)
    writer.log({"n": 1})
    writer.wait()
    clock.now = 0.0
    writer.log({"n": 2})
    clock.now = 2000.0
    assert written.wait(30)
    writer.close()


def test_a_closed_writer_refuses_and_closes_twice(disk: Disk) -> None:
    writer = Writer(disk.rows)
    writer.close()
    writer.close()
    with pytest.raises(UsageError, match="closed"):
        writer.save(disk.job("late"))


def test_a_forked_child_does_not_wait_for_a_thread_that_it_does_not_have(disk: Disk) -> None:
    writer = Writer(disk.rows)
    child = os.fork()
    if child == 0:
        writer.close()
        os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    writer.close()
