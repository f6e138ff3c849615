"""Whether a keep, as a crash has left it, holds what it must: everything acknowledged, nothing wrong, and a way on."""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import modelkeep as mk
from modelkeep.errors import ModelkeepError
from modelkeep.state import differences
from modelkeep.store import Retain, layout, newest_good

from .programs import DAYS, FORK, state

AGAIN = 900
"""The step of the checkpoint that is saved into each state."""


@dataclass(slots=True)
class Facts:
    """What a state holds, whatever it should."""

    faults: list[str] = field(default_factory=list)
    """What must not be, whatever was acknowledged."""
    live: dict[str, set[int]] = field(default_factory=dict)
    """By run: the steps of the checkpoints that are there and right."""
    states: set[str] = field(default_factory=set)
    """Ids of the snapshots that are there and right."""
    ended: set[str] = field(default_factory=set)
    """Runs that have ended."""


def examine(folder: Path) -> Facts:
    """Open, load, verify, resume, save and collect in a state; the state is used up."""
    facts = Facts()
    with _told_in(facts, "broken: it cannot be used"), warnings.catch_warnings():
        warnings.simplefilter("error")
        # Other frameworks may be loaded here than in the program; that is not what is tested.
        warnings.filterwarnings("ignore", message="run .* goes on, but not bit for bit")
        keep = mk.open(folder / "keep")
        for name in keep.names():
            facts.live[name] = set(_right(facts, keep, name))
            _check_run(facts, keep, name)
        facts.states |= set(_others(facts, keep))
        _verify(facts, keep)
        for name in keep.names() or ["cnn"]:
            _go_on(facts, keep, name)
        _collect(facts, mk.open(folder / "keep"))
    return facts


def judge(facts: Facts, said: Sequence[str]) -> list[str]:
    """What is missing of what was acknowledged by the marks ``said``."""
    acknowledged: dict[str, set[int]] = {}
    droppable: dict[str, set[int]] = {}
    missing: list[str] = []
    for text in said:
        match text.split():
            case ["ack", run, step]:
                acknowledged.setdefault(run, set()).add(int(step))
            case ["may-drop", run, step]:
                droppable.setdefault(run, set()).add(int(step))
            case ["state", name, step] if name not in facts.states:
                missing.append(f"gone: the state of step {step} was acknowledged")
            case ["ended", run] if run not in facts.ended:
                missing.append(f"gone: the end of run {run} was acknowledged")
    for run, steps in acknowledged.items():
        live = facts.live.get(run, set())
        gone = steps - droppable.get(run, set()) - live
        if gone:
            missing.append(f"gone: checkpoints {sorted(gone)} of {run} were acknowledged; there are {sorted(live)}")
        if max(live, default=0) < max(steps):
            missing.append(f"gone: {run} goes on from {max(live, default=0)}, and {max(steps)} was acknowledged")
    return missing


@contextmanager
def _told_in(facts: Facts, what: str) -> Iterator[None]:
    """Errors of the library, and its warnings, are faults of the state."""
    try:
        yield
    except (ModelkeepError, Warning, AssertionError, OSError) as error:
        facts.faults.append(f"{what}: {type(error).__name__}: {error}")


def _right(facts: Facts, keep: Any, name: str) -> Iterator[int]:
    """The steps of the checkpoints that load, bit for bit as they were saved."""
    for one in keep.store.run(name).checkpoints():
        with _told_in(facts, f"lost: checkpoint {one.step} of {name} is there, and cannot be loaded"):
            differing = differences(state(one.step), keep.store.load(one.snapshot_id))
            if differing:
                facts.faults.append(f"wrong: checkpoint {one.step} of {name} loads, and differs in {differing[:3]}")
            else:
                facts.states.add(one.snapshot_id)
                yield one.step


def _check_run(facts: Facts, keep: Any, name: str) -> None:
    """The newest checkpoint is found both ways; history, metrics and end can be read."""
    record = keep.store.run(name)

    def passed_over(what: str, error: Exception) -> None:
        facts.faults.append(f"lost: a resume of {name} passes over {what}: {error}")

    newest = max(facts.live[name], default=None)
    found = newest_good(keep.store, record, passed_over)
    if (found and found[0].step) != newest:
        facts.faults.append(f"lost: {name} goes on from {found and found[0].step}, and {newest} is there")
    if newest is not None and keep.snapshot(f"run:{name}@last").meta["step"] != newest:
        facts.faults.append(f"lost: run:{name}@last is not step {newest}")
    record.attempts()
    record.metrics()
    if record.finished() is not None:
        facts.ended.add(name)


def _others(facts: Facts, keep: Any) -> Iterator[str]:
    """The records of no checkpoint that load. One that says it is of some is garbage, and may have lost its shards."""
    listed = {layout.snapshot_of(entry.key) for entry in keep.store.backend.list(layout.SNAPSHOTS)}
    for name in listed - facts.states:
        snapshot = keep.store.snapshot(name)
        step = snapshot.meta["step"]
        assert isinstance(step, int)
        try:
            tree = keep.store.load(snapshot)
        except ModelkeepError as error:
            if snapshot.meta.get("kind") != "checkpoint":
                facts.faults.append(f"lost: the state of step {step} has a record, and cannot be loaded: {error}")
            continue
        differing = differences(state(step), tree)
        if differing:
            facts.faults.append(f"wrong: snapshot {snapshot.short} of step {step} differs in {differing[:3]}")
        else:
            yield snapshot.id


def _verify(facts: Facts, keep: Any) -> None:
    """No damage of anything that is committed; garbage may be what it likes."""
    for damage in keep.verify().damages:
        garbage = damage.key.startswith((f"{layout.SHARDS}/", f"{layout.SNAPSHOTS}/"))
        if damage.refs or not garbage:
            facts.faults.append(f"lost: verify reports {damage.key} of {damage.refs}: {damage.what}")


def _go_on(facts: Facts, keep: Any, name: str) -> None:
    """The run goes on from its newest checkpoint and saves another."""
    live = facts.live.get(name, set())
    with keep.run(name, exact=False, capture=False) as run:
        step = run.resumed[0].step if run.resumed else None
        if step != max(live, default=None) and name != FORK:  # a fork without one begins with its parent's
            facts.faults.append(f"lost: {name} resumes from {step}, of {sorted(live)}")
        run.retain = Retain(last=99)
        run.save(state(AGAIN), step=AGAIN, epoch=0, wait=True)


def _collect(facts: Facts, keep: Any) -> None:
    """A collection, days later, takes garbage only: what was there is, with the new ones, and no byte is damaged."""
    later = time.time() + DAYS
    keep.store.backend.now = lambda: later
    keep.gc(dry_run=False)
    for name in keep.names():
        wanted = facts.live.get(name, set()) | {AGAIN}
        there = {one.step for one in keep.store.run(name).checkpoints()}
        if not wanted <= there:
            facts.faults.append(f"gone: checkpoints {sorted(wanted - there)} of {name}, after a save and a collection")
        if differences(state(AGAIN), keep.load_state(f"run:{name}@last")):
            facts.faults.append(f"wrong: what was saved into the state of {name} loads, and differs")
    report = keep.verify()
    if report.damages or report.foreign:
        facts.faults.append(f"broken: after gc verify reports {report.damages[:2]}, {report.foreign[:2]}")
