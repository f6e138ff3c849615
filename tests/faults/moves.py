"""What a training does to its keep, as moves that a fault can meet at any call."""

import shutil
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

import modelkeep as mk

RUN = "cnn"
KEPT = 2
STATE = 101
_DAY = 24 * 3600.0


def state(step: int) -> Any:
    """The state of a step: what is frozen, what is new, and texts."""
    return {
        "base": np.arange(3000, dtype="f4"),
        "head": np.random.default_rng(step).random(3000, "f4"),
        "names": np.array(["a", str(step)], dtype=object),
        "step": step,
    }


def save(run: mk.Run, step: int) -> None:
    """A checkpoint, durable on return."""
    run.retain = mk.Retain(last=KEPT)
    run.save(state(step), step=step, epoch=step, wait=True)


def make_keep(place: Path) -> None:
    """A keep with steps 1 and 2 of a run, a state that is kept, and what `gc` would remove."""
    keep = mk.open(place)
    with keep.run(RUN, capture=False) as run:
        save(run, 1)
        save(run, 2)
    keep.save_state(state(STATE), meta={"step": STATE})
    keep.store.save(state(201), meta={"kind": "checkpoint", "run": RUN, "step": 201})
    keep.store.delete_snapshot(keep.store.save(state(202)).id)
    keep.store.backend.create("gc/condemned/9999999998.json", b"")
    (place / "runs" / ".lock.1-00000000.tmp").write_bytes(bytes(100))


class Move(ABC):
    """One move. ``prepare`` and ``end`` meet no faults, ``act`` does."""

    old = 2
    """The newest step before it."""
    new = 2
    """The newest step when it succeeds."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def place_keep(self, template: Path, behind: Path) -> None:
        """Put the keep where the move finds it."""
        shutil.copytree(template, behind)

    def prepare(self) -> None:
        """What comes before."""
        self._keep = mk.open(self._place)

    @abstractmethod
    def act(self) -> None:
        """The move itself."""

    def end(self) -> None:
        """What the same process does afterwards: it lets go of the run."""
        with self._keep.run(RUN, capture=False):
            pass


class First(Move):
    """A keep and a run come to be."""

    old, new = 0, 1

    def place_keep(self, template: Path, behind: Path) -> None:
        """There is none yet."""

    def prepare(self) -> None:
        """Nor is it opened."""

    def end(self) -> None:
        """The call that failed is made again."""
        self.act()

    def act(self) -> None:
        with mk.open(self._place).run(RUN, capture=False) as run:
            save(run, 1)


class Save(Move):
    """A checkpoint with metrics, and retention; the same process then saves again."""

    new = 3

    def prepare(self) -> None:
        self._keep = mk.open(self._place)
        self._run = self._keep.run(RUN, capture=False)

    def act(self) -> None:
        self._run.log({"loss": 0.5}, step=3, epoch=3)
        save(self._run, 3)

    def end(self) -> None:
        try:
            save(self._run, 4)
        finally:
            self._run.close()


class Large(Save):
    """A checkpoint that is allocated and written past the page cache."""

    def act(self) -> None:
        large = np.random.default_rng(3).integers(0, 256, 9 << 20, "u1")
        self._run.retain = mk.Retain(last=KEPT)
        self._run.save({**state(3), "large": large}, step=3, epoch=3, wait=True)


class Resume(Move):
    """A process that goes on: the newest checkpoint is read, the next one made."""

    new = 3

    def act(self) -> None:
        with self._keep.run(RUN, capture=False) as run:
            checkpoint, tree = run.resumed
            assert checkpoint.step == 2, "a fault is no damage: an older checkpoint must not stand in"
            assert tree["step"] == 2
            save(run, 3)


class Load(Move):
    """States are read."""

    def act(self) -> None:
        keep = mk.open(self._place)
        assert keep.load_state(f"run:{RUN}@last")["step"] == 2
        assert [one.name for one in keep.runs()] == [RUN]


class Collect(Move):
    """What nothing names is removed."""

    def prepare(self) -> None:
        self._keep = mk.open(self._place)
        self._keep.store.backend.now = lambda: time.time() + 2 * _DAY

    def act(self) -> None:
        self._keep.gc(dry_run=False)

    def end(self) -> None:
        self._keep.gc(dry_run=False)


MOVES = (First, Save, Large, Resume, Load, Collect)
