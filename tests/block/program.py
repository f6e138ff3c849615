"""The program whose disk is recorded: it trains, in as far as its keep can tell, and says what was acknowledged.

Run as ``python -m tests.block.program KEEP MARKS PART...``; MARKS is the folder of a `recorder`, or ``-`` to print.
What each mark means is in `expected`.
"""

import fcntl
import os
import struct
import sys
import time
from typing import Any

import numpy as np

import modelkeep as mk

from .log import MARK

RUN, FORK = "cnn", "fork"
KEPT = 2
"""How many checkpoints the retention of the run leaves."""

SHUTDOWN = 0x8004587D
"""The ioctl that stops a file system (``_IOR('X', 125, __u32)``)."""

_LARGE_EVERY = 5
_LARGE = 9 << 20


def state(step: int) -> Any:
    """The state of a step: some of it frozen, some of it new, and now and then enough to be streamed."""
    drawn = np.random.default_rng(step)
    tree = {
        "base": np.arange(3000, dtype="f4"),
        "head": {"kernel": drawn.random((700, 100), "f4"), "bias": drawn.random(100, "f4")},
        "names": np.array(["a", "bc", str(step)], dtype=object),
        "step": step,
    }
    if step % _LARGE_EVERY == 0:
        tree["large"] = drawn.integers(0, 256, _LARGE, "u1")
    return tree


class Program:
    """The parts of a training. What begins and what has been acknowledged is marked: for a `recorder`, or printed."""

    def __init__(self, keep: str, marks: str) -> None:
        self._keep = keep
        self._marks = marks

    def first(self) -> None:
        """A keep and a run come to be, with one checkpoint."""
        self._train(1, 1)

    def later(self) -> None:
        """Checkpoints that share pieces with the ones before, and retention that lets old ones go."""
        self._train(2, 7)

    def resume(self) -> None:
        """A process that goes on where the last one was left."""
        self._train(8, 11)

    def states(self) -> None:
        """States that are kept by their ids."""
        keep = mk.open(self._keep)
        for step in (101, 102):
            self._mark(f"keeping {step}")
            snapshot = keep.save_state(state(step))
            self._mark(f"kept {step} {snapshot.id}")

    def fork(self) -> None:
        """A run that begins with another one's checkpoint, while that one goes on."""
        keep = mk.open(self._keep)
        with keep.run(RUN, capture=False) as parent:
            parent.retain = mk.Retain(last=KEPT)
            at, _ = parent.resumed
            self._mark(f"saving {FORK} {at.step}")
            with keep.run(FORK, fork=f"run:{RUN}@last", capture=False) as run:
                self._mark(f"saved {FORK} {at.step}")
                run.retain = mk.Retain(last=KEPT)
                for step in range(at.step + 1, at.step + 3):
                    self._save(parent, RUN, step)
                    self._save(run, FORK, step)

    def gc(self) -> None:
        """What nothing names is collected: a checkpoint that no run has, a shard of no snapshot, an old sentence."""
        keep = mk.open(self._keep)
        store = keep.store
        store.save(state(201), meta={"kind": "checkpoint", "run": RUN, "step": 201})
        store.delete_snapshot(store.save(state(202)).id)
        store.backend.create("gc/condemned/9999999998.json", b"")
        day = 24 * 3600.0
        store.backend.now = lambda: time.time() + 2 * day
        self._mark("collecting")
        found = keep.gc(dry_run=False)
        assert len(found.removed) >= 3, found
        self._mark("collected")

    def cut_with_log(self) -> None:
        """Save, and in the same breath have the kernel stop the file system, its log written to the end."""
        self._cut(1)

    def cut_without_log(self) -> None:
        """The same with the log as it is on the disk."""
        self._cut(2)

    def _cut(self, flags: int) -> None:
        run = mk.open(self._keep).run(RUN, capture=False)
        run.retain = mk.Retain(last=KEPT)
        self._save(run, RUN, run.resumed[0].step + 1 if run.resumed else 1)
        fcntl.ioctl(os.open(self._keep, os.O_RDONLY), SHUTDOWN, struct.pack("I", flags))
        os._exit(0)

    def _train(self, first: int, last: int) -> None:
        with mk.open(self._keep).run(RUN, capture=False) as run:
            run.retain = mk.Retain(last=KEPT)
            assert (run.resumed[0].step if run.resumed else 0) == first - 1
            for step in range(first, last + 1):
                run.log({"loss": 1 / step}, step=step, epoch=step)
                self._save(run, RUN, step)

    def _save(self, run: mk.Run, name: str, step: int) -> None:
        self._mark(f"saving {name} {step}")
        run.save(state(step), step=step, epoch=step, wait=True)
        self._mark(f"saved {name} {step}")

    def _mark(self, text: str) -> None:
        if self._marks == "-":
            print(text, flush=True)
        else:
            os.setxattr(self._marks, MARK, text.encode())


PARTS = ("first", "later", "resume", "states", "fork", "gc")


def forget_to_sync() -> None:
    """Make this a program that calls nothing durable, as most savers are."""
    os.fsync = lambda descriptor: None


if __name__ == "__main__":
    keep, marks, *parts = sys.argv[1:]
    program = Program(keep, marks)
    for part in parts:
        forget_to_sync() if part == "forgetful" else getattr(program, part)()
