"""A file system that fails in any call of a save, a resume or a collection: a typed error, and nothing is lost."""

import errno
import os
import random
import shutil
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import pytest

import modelkeep as mk
from modelkeep.errors import ModelkeepError, StorageError
from modelkeep.state import differences

from ..block.mounts import need_fuse
from .disk import Disk, faulty_disk
from .moves import MOVES, RUN, STATE, Move, make_keep, save, state
from .plan import READS, WRITES, Plan, codes_of

each_move = pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__.lower())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    need_fuse()
    with faulty_disk(tmp_path) as found:
        make_keep(found.behind / "template")
        yield found


def put(disk: Disk, kind: type[Move], name: str) -> Move:
    move = kind(disk.folder / name)
    move.place_keep(disk.behind / "template", disk.behind / name)
    move.prepare()
    return move


def plans_for(disk: Disk, kind: type[Move]) -> list[Plan]:
    """Every call that the move makes, with everything that it may fail with."""
    move = put(disk, kind, "counted")
    with disk.failing(None) as counts:
        move.act()
    move.end()
    shutil.rmtree(disk.behind / "counted")
    return [
        Plan(call, number, code, sticks)
        for call in (*WRITES, *READS)
        for number in range(1, counts.get(call, 0) + 1)
        for code in codes_of(call)
        for sticks in (False, True)
    ]


def a_few(plans: Sequence[Plan], count: int) -> list[Plan]:
    """Some plans, of each kind of call as many: most calls look at a name."""
    drawn = random.Random(1)
    kinds: dict[str, list[Plan]] = {}
    for plan in plans:
        kinds.setdefault(plan.kind, []).append(plan)
    return [drawn.choice(kinds[kind]) for kind, _ in zip(cycle(sorted(kinds)), range(count), strict=False)]


def meet(disk: Disk, kind: type[Move], plan: Plan, name: str) -> tuple[str, list[str]]:
    """Let a move meet a fault: how it ended, and what is wrong with that."""
    move = put(disk, kind, name)
    wrong: list[str] = []
    outcome, there = "success", {kind.new}
    try:
        with warnings.catch_warnings(), disk.failing(plan) as counts:
            warnings.simplefilter("ignore", RuntimeWarning)  # what succeeds may say what it met
            move.act()
    except ModelkeepError as error:
        outcome, there = type(error).__name__, {kind.old, kind.new}  # it may have failed behind its checkpoint
        wrong += unclear(error, plan, name)
    except Exception:  # noqa: BLE001  whatever else comes is what is looked for
        outcome = "untyped"
        wrong.append(traceback.format_exc())
    if not counts["failed"]:
        outcome = "not met"
    try:
        move.end()
        wrong += lost(disk.folder / name, there)
    except Exception:  # noqa: BLE001  the next fault is met all the same
        wrong.append(f"afterwards: {traceback.format_exc()}")
    wrong += [f"{left} is open still" for left in still_open(disk.folder / name)]
    shutil.rmtree(disk.behind / name)
    return outcome, [f"{plan}: {one}" for one in wrong]


def unclear(error: ModelkeepError, plan: Plan, name: str) -> list[str]:
    """What the error does not tell: where, why, and the way out."""
    text = str(error)
    told = isinstance(error, StorageError) and name in text and os.strerror(plan.code).lower() in text and ";" in text
    return [] if told else [f"unclear: {type(error).__name__}: {text}"]


def still_open(place: Path) -> list[str]:
    """The files below ``place`` that this process has open; they are closed, so that the disk can be taken away."""
    left = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the listing's own is gone
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith(str(place)):
                left.append(target)
                os.close(descriptor)
    return left


def lost(place: Path, there: set[int]) -> list[str]:
    """What a new process misses in the keep, and whether it can go on. One of the steps ``there`` is to be there."""
    keep = mk.open(place)
    wrong: list[str] = []
    checkpoints = keep.store.run(RUN).checkpoints()
    steps = [one.step for one in checkpoints]
    if there.isdisjoint({*steps, 0}):
        wrong.append(f"none of the steps {there} is there, but {steps}")
    for one in checkpoints:
        tree = keep.load_state(keep.store.snapshot(one.snapshot_id))
        tree.pop("large", None)
        if differences(state(one.step), tree):
            wrong.append(f"step {one.step} is not what was saved")
    kept = [keep.snapshot(path.stem) for path in place.glob("snapshots/*/*.json")]
    loaded = [keep.load_state(one) for one in kept if one.meta.get("step") == STATE]
    if min(there) > 1 and (len(loaded) != 1 or differences(state(STATE), loaded[0])):
        wrong.append("the state that was kept is gone, or another one")
    with keep.run(RUN, capture=False) as run:
        save(run, 50)
    if differences(state(50), mk.open(place).load_state(f"run:{RUN}@last")):
        wrong.append("the save after it does not load")
    return wrong + [f"{one.key}: {one.what}" for one in keep.verify().damages]


def meet_all(disk: Disk, kind: type[Move], plans: Sequence[Plan], tried: Callable[..., None]) -> None:
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    for number, plan in enumerate(plans):
        outcome, found = meet(disk, kind, plan, f"met-{number}")
        outcomes[outcome] += 1
        wrong += found
    ends = ", ".join(f"{kind} {count}" for kind, count in sorted(outcomes.items()))
    tried(len(plans), f"faults of the file system in a {kind.__name__.lower()}", ends)
    assert wrong[:10] == []
    assert outcomes["StorageError"] > 0


@each_move
def test_a_fault_in_a_call_is_a_clear_error_and_loses_nothing(
    move: type[Move], disk: Disk, tried: Callable[..., None]
) -> None:
    meet_all(disk, move, a_few(plans_for(disk, move), 22), tried)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@each_move
def test_a_fault_in_any_call_is_a_clear_error_and_loses_nothing(
    move: type[Move], disk: Disk, tried: Callable[..., None]
) -> None:
    meet_all(disk, move, plans_for(disk, move), tried)


def test_the_disk_does_fail_as_planned(disk: Disk) -> None:
    """Else the faults would prove nothing."""
    path = disk.folder / "file"
    with disk.failing(Plan("create", 1, errno.ENOSPC)), pytest.raises(OSError, match="No space left"):
        path.write_bytes(b"a")
    path.write_bytes(b"a")
    with disk.failing(Plan("write", 2, errno.EDQUOT)) as counts, path.open("r+b", buffering=0) as file:
        file.write(b"b")
        with pytest.raises(OSError, match="quota"):
            file.write(b"c")
        file.write(b"d")
    assert counts["write"] == 3
    assert counts["failed"] == 1
    with path.open("r+b", buffering=0) as file, disk.failing(Plan("sync", 1, errno.EIO, sticks=True)):
        for call in (lambda: os.fsync(file.fileno()), lambda: file.write(b"e"), lambda: os.link(path, f"{path}-2")):
            with pytest.raises(OSError, match="Input/output error"):
                call()
    # The kernel asks once more when it had only read ahead.
    with disk.failing(Plan("read", 1, errno.EIO, sticks=True)), pytest.raises(OSError, match="Input/output error"):
        path.read_bytes()
    assert path.read_bytes() == b"bd"
