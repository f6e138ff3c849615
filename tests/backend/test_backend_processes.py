"""Two real processes on one keep: locks are exclusive, freed by death, and one of many creators wins."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.backend import LocalBackend
from modelkeep.errors import RunLocked

HOLDER = """
import sys
from modelkeep.backend import LocalBackend
with LocalBackend(sys.argv[1]).lock("runs/a/lock"):
    print("held", flush=True)
    sys.stdin.readline()
"""

ORPHAN = """
import os, sys
from modelkeep.backend import LocalBackend
with LocalBackend(sys.argv[1]).lock("runs/a/lock"):
    if os.fork() == 0:
        print("forked", flush=True)
        sys.stdin.readline()
        os._exit(0)
    os.wait()
"""

CREATOR = """
import errno, os, sys, warnings
from modelkeep.backend import LocalBackend, syscalls
from modelkeep.errors import AlreadyExists
warnings.simplefilter("ignore")
def refuse(*arguments, **options):
    raise OSError(errno.EPERM, "no links here")
if sys.argv[3] != "link":
    os.link = refuse
if sys.argv[3] == "O_EXCL":
    syscalls._rename_noreplace = lambda source, target: False
place = LocalBackend(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
won = []
for number in range(100):
    try:
        place.create(f"race/{number:03d}", sys.argv[2].encode())
        won.append(number)
    except AlreadyExists:
        pass
print(*won, flush=True)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    child = _start(HOLDER, tmp_path)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    yield child
    _end(child)


def test_a_lock_that_another_process_holds_names_it(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with (
        pytest.raises(RunLocked, match=rf"{holder.pid}.*{os.uname().nodename}"),
        LocalBackend(tmp_path).lock("runs/a/lock"),
    ):
        pass


def test_a_lock_of_another_name_is_free(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with LocalBackend(tmp_path).lock("runs/b/lock"):
        pass


def test_kill_9_frees_the_lock_at_once(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with LocalBackend(tmp_path).lock("runs/a/lock"):
        pass


def test_kill_9_frees_the_lock_although_a_forked_child_lives_on(tmp_path: Path) -> None:
    """A data loader's worker has a copy of each descriptor, and the kernel frees a lock with the last one."""
    child = _start(ORPHAN, tmp_path)
    assert child.stdout is not None
    assert child.stdout.readline() == "forked\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    try:
        with LocalBackend(tmp_path).lock("runs/a/lock"):
            pass
    finally:
        _end(child)  # closes the pipe that the orphan waits for


def test_a_lock_that_was_let_go_can_be_taken_by_another_process(tmp_path: Path) -> None:
    with LocalBackend(tmp_path).lock("runs/a/lock"):
        pass
    child = _start(HOLDER, tmp_path)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    _end(child)


def test_a_forked_child_does_not_have_its_parents_lock(tmp_path: Path) -> None:
    """``flock`` belongs to the open file, which a fork shares: the child must be told apart by its process id."""
    place = LocalBackend(tmp_path)
    with place.lock("runs/a/lock"):
        child = os.fork()
        if child == 0:
            try:
                with place.lock("runs/a/lock"):
                    os._exit(1)
            except RunLocked:
                os._exit(0)
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        other = _start(HOLDER, tmp_path)
        assert other.stdout is not None
        assert other.stdout.readline() == ""  # RunLocked: the child's end has not freed the parent's lock
        _end(other)


@pytest.mark.parametrize("by", ["link", "renameat2", "O_EXCL"])
def test_of_four_processes_that_create_the_same_keys_each_key_has_one_winner(tmp_path: Path, by: str) -> None:
    children = [_start(CREATOR, tmp_path, str(index), by) for index in range(4)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    place = LocalBackend(tmp_path)
    winners: dict[int, int] = {}
    for index, child in enumerate(children):
        output, _ = child.communicate()
        for number in map(int, output.split()):
            assert number not in winners
            winners[number] = index
    assert sorted(winners) == list(range(100))
    for number, index in winners.items():
        assert place.read(f"race/{number:03d}") == str(index).encode()
    assert len(os.listdir(tmp_path / "race")) == 100


def test_what_a_killed_writer_left_is_seen_by_nobody_and_cleaned(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from modelkeep.backend import LocalBackend
writer = LocalBackend(sys.argv[1]).writer("a/b")
writer.append(memoryview(b"half"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    child = _start(script, tmp_path)
    assert child.wait() == -signal.SIGKILL
    _end(child)
    place = LocalBackend(tmp_path)
    assert len(os.listdir(tmp_path / "a")) == 1
    assert list(place.list("")) == []
    place.create("a/b", b"whole")
    assert place.clean("", place.now() + 3600) == 1
    assert os.listdir(tmp_path / "a") == ["b"]


def _start(script: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def _end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        pipe.close()
