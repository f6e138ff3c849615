"""Programs that use a keep, each in a process of its own: what they keep, and what they say while they do.

They speak in marks: ``begin`` (from here on a crash may come), ``ack RUN STEP`` (a checkpoint is acknowledged),
``may-drop RUN STEP`` (retention may let it go from now on), ``state ID STEP`` (a state is acknowledged), and ``ended
RUN`` (its end is).
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import modelkeep as mk
from modelkeep.backend import local, stream, syscalls
from modelkeep.store import Retain, layout
from modelkeep.store import save as saving

from .savers import mark

LARGE = 1000
"""States of this step and later ones are too large for the page cache: allocated, and written in blocks."""

FORK = "fork"
"""The run that begins with a checkpoint of another."""

DAYS = 3 * 24 * 3600.0
"""Long enough ago for ``gc``."""


def state(step: int) -> Any:
    """What a checkpoint of this step holds: arrays of several pages, of some bytes, and one that never changes."""
    dice = np.random.default_rng(step)
    tree = {
        "frozen": np.arange(5000, dtype="f4"),
        "kernel": dice.random((120, 60), dtype="f4"),
        "table": dice.integers(0, 1 << 60, 3000),
        "bias": dice.random(60, dtype="f4"),
        "scale": dice.random(3),
        "names": np.array(["a", "bb", f"step {step}"], dtype=object),
        "step": step,
    }
    if step >= LARGE:
        tree["large"] = dice.integers(0, 256, (9 << 20) + 5000, dtype="u1")
    return tree


def opened(keep: Any, name: str = "cnn", **options: Any) -> Any:
    """A run that goes on, and keeps everything; what it has is acknowledged already."""
    run = keep.run(name, capture=False, **options)
    run.retain = Retain(last=99)
    for one in keep.store.run(name).checkpoints():
        mark(f"ack {name} {one.step}")
    return run


def save(run: Any, *steps: int) -> None:
    """Save checkpoints; each is acknowledged when the call has returned."""
    for step in steps:
        run.save(state(step), step=step, epoch=0, metrics={"loss": 1 / step}, wait=True)
        mark(f"ack {run.name} {step}")


def trained(keep: Any, *steps: int) -> None:
    """A run of some steps that has ended as it should."""
    with opened(keep, seed=7, params={"units": 3}) as run:
        save(run, *steps)


def first(keep: Path) -> None:
    """The keep itself comes to be, a state twice, and the first checkpoints of a run."""
    mark("begin")
    place = mk.open(keep)
    for _ in range(2):
        mark(f"state {place.save_state(state(100), meta={'step': 100}).id} 100")
    with opened(place, seed=7, params={"units": 3}) as run:
        save(run, 1, 2)


def later(keep: Path) -> None:
    """Two more checkpoints of a run, and rows of metrics."""
    with opened(mk.open(keep)) as run:
        mark("begin")
        run.log({"loss": 0.5}, step=3, epoch=0)
        save(run, 3)
        run.log({"loss": 0.25}, step=4, epoch=0)
        save(run, 4)


def resume(keep: Path) -> None:
    """A run goes on after a kill that has left a shard, half a record and half a file."""
    place = mk.open(keep)
    for one in place.store.run("cnn").checkpoints():
        mark(f"ack cnn {one.step}")
    mark("begin")
    with opened(place) as run:
        save(run, 3)


def retention(keep: Path) -> None:
    """Each checkpoint lets those before it go: tombstone, record, shards."""
    with opened(mk.open(keep)) as run:
        mark("begin")
        run.retain = Retain(last=1)
        for one in keep_steps(run):
            mark(f"may-drop cnn {one}")
        save(run, 4)
        mark("may-drop cnn 4")
        save(run, 5)
        run.retain = Retain(last=2)
        save(run, 6)
        mark("may-drop cnn 5")
        save(run, 7)


def keep_steps(run: Any) -> list[int]:
    """The steps of the checkpoints that a run has."""
    return [one.step for one in run.store.run(run.name).checkpoints()]


def fork(keep: Path) -> None:
    """A new run that begins with a checkpoint of another."""
    place = mk.open(keep)
    for one in place.store.run("cnn").checkpoints():
        mark(f"ack cnn {one.step}")
    mark("begin")
    with opened(place, FORK, fork="run:cnn@1") as run:
        save(run, 3)


def gc(keep: Path) -> None:
    """What nothing names is removed, and training goes on."""
    place = mk.open(keep)
    for one in place.store.run("cnn").checkpoints():
        mark(f"ack cnn {one.step}")
    mark("begin")
    report = place.gc(dry_run=False)
    assert len(report.removed) >= 3, report
    with opened(place) as run:
        save(run, 3)


def finish(keep: Path) -> None:
    """Two saves of which the program waits for the second only, and the end."""
    with opened(mk.open(keep)) as run:
        mark("begin")
        run.save(state(3), step=3, epoch=0)
        save(run, 4)
        mark("ack cnn 3")
        run.finish({"epochs": 1})
        mark("ended cnn")


def large(keep: Path) -> None:
    """A checkpoint that is preallocated, hashed by threads and written past the page cache by others."""
    with opened(mk.open(keep), seed=7) as run:
        mark("begin")
        save(run, LARGE)


def streamed(keep: Path) -> None:
    """The same for states of some pages: what is large, a buffer and an allocation are smaller here."""
    local._LARGE, local._RUN = 32 << 10, 128 << 10
    stream.BUFFER_BYTES = 16 << 10
    stream.DirectStream._write.__defaults__ = (stream.BUFFER_BYTES,)
    saving._WORTH_THREADS, saving._TOGETHER = 32 << 10, 8 << 10
    with opened(mk.open(keep)) as run:
        mark("begin")
        save(run, 3, 4)


def nothing(keep: Path) -> None:
    """There is no keep yet."""


def empty(keep: Path) -> None:
    """A keep without runs."""
    mk.open(keep)


def two_checkpoints(keep: Path) -> None:
    """A keep with a run of two checkpoints."""
    trained(mk.open(keep), 1, 2)


def three_checkpoints(keep: Path) -> None:
    """A keep with a run of three checkpoints, the frozen array in the shard of the first."""
    trained(mk.open(keep), 1, 2, 3)


def killed(keep: Path) -> None:
    """A keep whose run was killed when a shard was durable and its record was not."""
    two_checkpoints(keep)
    place = mk.open(keep)
    run = place.run("cnn", capture=False)
    unfinished = place.store.backend.writer(layout.shard_key(f"{run._start.token}-7"))
    unfinished.append(memoryview(b"half of a shard" * 1000))
    real = os.link

    def die(source: Any, target: Any, **options: Any) -> None:
        if "/snapshots/" in str(target):
            os._exit(0)
        real(source, target, **options)

    os.link = die
    save(run, 3)


def littered(keep: Path) -> None:
    """A keep with a record that no run names, a shard that no record holds, a sentence that was served; all old."""
    two_checkpoints(keep)
    place = mk.open(keep)
    store = place.store
    store.save(state(8), meta={"kind": "checkpoint", "run": "cnn", "step": 8}, donor=store.resolve("cnn@last"))
    store.save(state(9), meta={"kind": "checkpoint", "run": "cnn", "step": 9})
    alone = store.save(state(10), meta={"kind": "checkpoint", "run": "cnn", "step": 10})
    store.delete_snapshot(alone.id)
    store.backend.create(layout.condemned_key("9999999998"), b"")
    unfinished = store.backend.writer(layout.shard_key(f"{'ab' * 8}-7"))
    unfinished.append(memoryview(b"half of a shard" * 1000))
    long_ago = time.time() - DAYS
    for path in keep.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    os._exit(0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What lies there, and what is done then."""

    before: Callable[[Path], None]
    act: Callable[[Path], None]


SCENARIOS = {
    "first": Scenario(nothing, first),
    "later": Scenario(two_checkpoints, later),
    "resume": Scenario(killed, resume),
    "retention": Scenario(three_checkpoints, retention),
    "fork": Scenario(two_checkpoints, fork),
    "gc": Scenario(littered, gc),
    "finish": Scenario(two_checkpoints, finish),
    "streamed": Scenario(two_checkpoints, streamed),
    "large": Scenario(empty, large),
}


def _break(what: str) -> None:
    """Make the library forget a sync: what the checks must catch."""
    name = {"files": "sync", "folders": "sync_folder"}[what]
    setattr(syscalls, name, lambda _: None)


if __name__ == "__main__":
    what, name, folder, *broken = sys.argv[1:]
    for one in broken:
        _break(one)
    getattr(SCENARIOS[name], what)(Path(folder) / "keep")
