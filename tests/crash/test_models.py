"""The harness itself: it replays what it sees, refuses what it does not know, and catches savers that are bad."""

import sys
from pathlib import Path

import pytest

from .calls import HANDLERS
from .campaign import MODELS, Campaign
from .choices import THOROUGH
from .disk import State, Tree
from .operations import Change, Names, Operation, Resize, Sync, Trace, Write
from .recorder import Recorder, Unmodelled
from .recording import Recording, record
from .savers import judge, look, version
from .strace import Call, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "strace works")

WATCHED = """
import os, sys
from pathlib import Path
disk = Path(sys.argv[1])
disk.joinpath("old").write_bytes(b"x" * 9000)
"""


def traced(folder: Path, code: str) -> Recording:
    disk = folder / "disk"
    disk.mkdir()
    return record([sys.executable, "-c", WATCHED + code, str(disk)], disk, folder / "log")


def saved(folder: Path, saver: str) -> Recording:
    disk = folder / "disk"
    disk.mkdir()
    (disk / "saved").write_bytes(version(1))
    return record([sys.executable, "-m", "tests.crash.savers", saver, str(disk)], disk, folder / "log")


# What is lost, and what is gone after it was acknowledged, in the states of each model. A saver that is bad must be
# caught by the models that its fault is a fault in; `auto_da_alloc` mends some of them on ext4.
CAUGHT = {
    "in_place": {"kill": {"lost"}, "ext4": {"lost", "gone"}, "weak": {"lost", "gone"}},
    "renamed": {"kill": set(), "ext4": {"gone"}, "weak": {"lost", "gone"}},
    "synced": {"kill": set(), "ext4": {"gone"}, "weak": {"gone"}},
    "unsynced_but_named": {"kill": set(), "ext4": set(), "weak": {"lost"}},
    "ranged": {"kill": set(), "ext4": set(), "weak": {"lost"}},
    "durable": {"kill": set(), "ext4": set(), "weak": set()},
}


@pytest.mark.parametrize("saver", CAUGHT)
def test_a_saver_that_is_bad_is_caught_and_one_that_is_good_is_not(tmp_path: Path, saver: str) -> None:
    recording = saved(tmp_path, saver)
    for model, kinds in CAUGHT[saver].items():
        outcome = Campaign(look, judge).run(recording, model, THOROUGH)
        assert set(outcome.faults) == kinds, (model, outcome.told[:3])
        assert outcome.states > 5


def test_calls_of_every_kind_are_replayed_to_the_byte(tmp_path: Path) -> None:
    code = """
import threading
d = os.open(disk / "new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
os.posix_fallocate(d, 0, 20000)
os.pwrite(d, b"a" * 5000, 3000)
os.pwritev(d, [b"b" * 10, bytearray(b"c" * 5000)], 9000)
os.write(d, b"head"); os.lseek(d, 10, os.SEEK_SET); os.writev(d, [b"1", b"22"])
e = os.dup(d); os.write(e, b"!"); os.write(d, b"?")
os.ftruncate(d, 15000); os.fsync(d); os.fdatasync(d); os.fchmod(d, 0o444)
os.link(disk / "new", disk / "named"); os.unlink(disk / "new"); os.pwrite(d, b"after", 1); os.close(d)
os.mkdir(disk / "folder"); os.rename(disk / "named", disk / "folder" / "moved")
os.rename(disk / "folder", disk / "far")
f = os.open(disk, os.O_RDONLY | os.O_DIRECTORY); os.fsync(f); os.close(f)
with open(disk / "far" / "text", "a") as file: file.write("one")
with open(disk / "far" / "text", "a") as file: file.write("two")
with open(disk / "far" / "text", "r+b") as file: file.seek(1); file.write(b"N"); file.truncate()
os.replace(disk / "old", disk / "far" / "text")
os.mkdir(disk / "gone"); os.rmdir(disk / "gone")
def work(number):
    with open(disk / f"thread-{number}", "wb", buffering=0) as file:
        for _ in range(50): file.write(bytes([number]) * 500)
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
child = os.fork()
if child == 0:
    os.write(e, b"child"); os._exit(0)
os.waitpid(child, 0)
for thread in threads: thread.join()
os.chdir(disk); Path("relative").write_text("r"); os.truncate("relative", 4096)
t = os.open(".", os.O_TMPFILE | os.O_RDWR); os.write(t, b"no name yet")
import ctypes; linked = ctypes.CDLL(None).linkat(-100, f"/proc/self/fd/{t}".encode(), -100, b"late", 0x400)
assert linked == 0
"""
    recording = traced(tmp_path, code)
    assert (tmp_path / "disk" / "late").read_text() == "no name yet"
    kinds = {type(one.action) for one in recording.trace.operations}
    assert kinds >= {Names, Write, Resize, Sync}


TWO = 'a, b = os.open(disk / "old", os.O_RDWR), os.open(disk / "new", os.O_RDWR | os.O_CREAT); '
REFUSED = {
    "mmap": 'import mmap; d = os.open(disk / "old", os.O_RDWR); m = mmap.mmap(d, 4096); m[0] = 1',
    "copy_file_range": TWO + "os.copy_file_range(a, b, 100)",
    "sendfile": TWO + "os.sendfile(b, a, 0, 9)",
    "symlink": 'os.symlink("old", disk / "new")',
    "rename": 'os.rename(disk / "old", disk.parent / "out")',
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_model_knows_is_refused_and_not_left_out(tmp_path: Path, what: str) -> None:
    with pytest.raises(Unmodelled):
        traced(tmp_path, REFUSED[what])


def test_writes_that_a_trace_cannot_show_are_refused(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, tmp_path, Tree())
    with pytest.raises(Unmodelled):
        recorder.trace([Call(1, "io_uring_setup", "8, 0x7ffc", 3, "", 0, 1)], HANDLERS)


def trace_of(*actions: object, folders: frozenset[int] = frozenset({0})) -> Trace:
    operations = (Operation(action, 2 * number, 2 * number + 1) for number, action in enumerate(actions))
    return Trace(tuple(operations), (), folders)


def keys(trace: Trace, model: str) -> list[State]:
    before = Tree({0: {"old": 1}}, {})
    before.apply(Write(1, 0, b"o" * 8192))
    return [state for _, state in MODELS[model](trace, before, THOROUGH, 1)]


def contents(trace: Trace, model: str) -> set[tuple[tuple[str, bytes], ...]]:
    return {tuple(sorted((path, bytes(one.data)) for path, one in state.files)) for state in keys(trace, model)}


def test_a_write_under_way_is_torn_at_pages_by_a_kill_and_in_any_order_by_a_power_cut() -> None:
    trace = trace_of(Write(1, 0, b"n" * 8192))
    old, new = b"o" * 4096, b"n" * 4096
    killed = {dict(one)["old"] for one in contents(trace, "kill")}
    assert killed == {old + old, new + old, new + new}
    cut = {dict(one)["old"] for one in contents(trace, "weak")}
    assert killed | {old + new} < cut
    assert any(one[:4096] not in (old, new) for one in cut)  # and a piece that is lost may hold garbage


def test_a_file_without_a_sync_may_lie_under_its_name_empty_or_with_zeros_or_garbage() -> None:
    create = Names((Change(0, "new", 2),))
    trace = trace_of(create, Write(2, 0, b"n" * 5000), Sync(0))
    found = {dict(one).get("new") for one in contents(trace, "weak")}
    assert {None, b"", b"n" * 5000, bytes(5000), b"n" * 4096 + bytes(904), bytes(4096) + b"n" * 904} <= found
    on_ext4 = {dict(one).get("new") for one in contents(trace, "ext4")}
    assert on_ext4 == {None, b"", b"n" * 4096, b"n" * 5000}


def test_a_sync_covers_what_had_returned_when_it_was_called_and_nothing_else() -> None:
    """Two threads: a write that overlaps with the sync may be lost after it."""
    early, late = Operation(Write(1, 0, b"a" * 10), 0, 1), Operation(Write(1, 10, b"b" * 10), 2, 9)
    trace = Trace((early, Operation(Sync(1), 4, 5), late), (), frozenset({0}))
    last = [state for moment, state in MODELS["weak"](trace, Tree({0: {"old": 1}}, {}), THOROUGH, 1) if moment == 9]
    found = {bytes(dict(state.files)["old"].data[:20]) for state in last}
    assert {b"a" * 10, b"a" * 10 + b"b" * 10} <= found
    assert all(one.startswith(b"a" * 10) for one in found)


def test_allocation_before_a_write_shows_zeros_on_ext4_too() -> None:
    create = Names((Change(0, "new", 2),))
    trace = trace_of(create, Resize(2, 8192, at_least=True), Write(2, 0, b"n" * 8192), Sync(0))
    found = {dict(one).get("new") for one in contents(trace, "ext4")}
    assert {None, b"", bytes(8192), b"n" * 8192, bytes(4096) + b"n" * 4096} <= found


def test_a_folder_is_lost_with_all_that_was_synced_in_it_until_the_one_above_is_synced() -> None:
    make, create = Names((Change(0, "folder", 3),)), Names((Change(3, "file", 2),))
    actions = [make, create, Write(2, 0, b"n"), Sync(2), Sync(3)]
    trace = trace_of(*actions, folders=frozenset({0, 3}))
    last = [state for moment, state in MODELS["weak"](trace, Tree({0: {}}, {}), THOROUGH, 1) if moment == 9]
    assert {state.folders for state in last} == {(), ("folder",)}
    trace = trace_of(*actions, Sync(0), folders=frozenset({0, 3}))
    last = [state for moment, state in MODELS["weak"](trace, Tree({0: {}}, {}), THOROUGH, 1) if moment == 11]
    assert {bytes(dict(state.files)["folder/file"].data) for state in last} == {b"n"}
