"""What modelkeep makes of a disk after a crash: everything that was promised, or what is wrong with it."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import modelkeep as mk
from modelkeep.errors import ModelkeepError
from modelkeep.state import differences

from .expected import Expected
from .program import FORK, RUN, state

_LATER = 900
"""The step of the save that must succeed after the crash."""


def problems(place: Path, expected: Expected) -> list[str]:
    """What is wrong with the keep at ``place``; nothing when every promise holds."""
    found: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for problem in _problems(place, expected):
                found.append(problem)  # noqa: PERF402  what was found before an error counts too
    except (ModelkeepError, OSError, Warning) as error:
        found.append(f"{type(error).__name__}: {error}")
    return found


def _problems(place: Path, expected: Expected) -> Iterator[str]:
    keep = mk.open(place)
    for run in (RUN, FORK):
        yield from _wrong_checkpoints(keep, run, expected)
    for snapshot, step in expected.kept.items():
        if differences(state(step), keep.load_state(snapshot)):
            yield f"the state {step} is not the one that was kept"
    for run in (RUN, FORK):
        yield from _wrong_resume(keep, run, expected)


def _wrong_checkpoints(keep: mk.Keep, run: str, expected: Expected) -> Iterator[str]:
    checkpoints = keep.store.run(run).checkpoints()
    missing = expected.required(run) - {one.step for one in checkpoints}
    if missing:
        yield f"run {run}: acknowledged and gone: steps {sorted(missing)}"
    for one in checkpoints:
        if differences(state(one.step), keep.load_state(keep.store.snapshot(one.snapshot_id))):
            yield f"run {run}: what loads as step {one.step} is not what was saved"
    if expected.newest(run):
        last = keep.snapshot(f"run:{run}@last").meta["step"]
        if last < expected.newest(run):
            yield f"run {run}: @last is {last}, and {expected.newest(run)} was acknowledged"


def _wrong_resume(keep: mk.Keep, name: str, expected: Expected) -> Iterator[str]:
    """A process that goes on finds what was acknowledged or newer, and saves."""
    with keep.run(name, capture=False) as run:
        step = run.resumed[0].step if run.resumed else 0
        if step < expected.newest(name):
            yield f"run {name} resumes from step {step}, and {expected.newest(name)} was acknowledged"
        run.save(state(_LATER + 1), step=_LATER + 1, epoch=1, wait=True)
    if differences(state(_LATER + 1), mk.open(keep.url).load_state(f"run:{name}@last")):
        yield f"run {name}: the save after the crash does not load"
