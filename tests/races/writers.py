"""One of several processes that write one keep at the same time: ``python -m tests.races.writers``.

Each writer has runs of its own, lets all but the last two checkpoints go now and then, and forks the newest checkpoint
of its neighbour, whose pieces it reuses while the neighbour lets them go. What is acknowledged is written down.
"""

import argparse
import itertools
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import modelkeep
from modelkeep.backend import workers
from modelkeep.errors import Conflict, Damaged, NotFound
from modelkeep.store import Retain, Store, layout
from modelkeep.training.run import Run

from ..simulation.facts import is_tree, tree

DROP_EACH = 8
"""Commits between two retentions: each lists all checkpoints of the keep."""

LAST = 2


class OneWriter:
    """Commits to a run of its own, and now and then to a fork of whatever the neighbour has just then."""

    def __init__(self, place: str, number: int, options: argparse.Namespace) -> None:
        self._keep = modelkeep.open(place)
        self._number = number
        self._neighbour = (number + 1) % options.writers
        self._commits = options.commits
        self._fork_each = max(4, options.commits // 10)
        self._serial = number * 1_000_000
        self._ledger = (options.ledgers / str(number)).open("w")
        self.reused = 0

    def write(self) -> None:
        """Commit so often; each line of the ledger is a run and a step."""
        with self._ledger, self._keep.run(f"w{self._number}", capture=False) as run:
            for count in range(self._commits):
                run.retain = Retain(last=LAST if count % DROP_EACH == 0 else 10**6)
                self._commit(run)
                if count % self._fork_each == self._fork_each - 1:
                    self._fork(count)

    def _commit(self, run: Run) -> None:
        self._serial += 1
        run.save(tree(self._serial), step=self._serial, epoch=0, wait=True)
        print(f"{run.name} {self._serial}", file=self._ledger, flush=True)
        if self._serial % 10 == 0:
            assert is_tree(self._keep.load_state(f"run:{run.name}@last"), self._serial)

    def _fork(self, count: int) -> None:
        """Two checkpoints from the pieces of one that its run may let go at this moment."""
        for again in itertools.count():
            name = f"w{self._number}-fork-{count}-{again}"
            try:
                fork = self._keep.run(name, capture=False, fork=f"run:w{self._neighbour}@last")
            except (NotFound, Damaged, Conflict):
                time.sleep(0.02)  # it was let go while it was read, or is not there yet
                continue
            with fork:
                self.reused += 1
                print(f"{fork.name} {_step(fork)}", file=self._ledger, flush=True)
                self._commit(fork)
                self._commit(fork)
            return


def _step(run: Run) -> int:
    assert run.resumed is not None
    checkpoint, state = run.resumed
    assert is_tree(state, checkpoint.step)
    return checkpoint.step


class OneKeeper:
    """Saves states with the pieces of old snapshots that are garbage, while a collector takes them."""

    def __init__(self, place: str, number: int, options: argparse.Namespace) -> None:
        self._store: Store = modelkeep.open(place).store
        self._number, self._commits = number, options.commits
        self._ledger = (options.ledgers / str(number)).open("w")
        self._chance = random.Random(number)
        self.reused = 0

    def write(self) -> None:
        """Save so often; each line of the ledger is an id and a serial."""
        with self._ledger:
            for count in range(self._commits):
                serial = self._number * 1_000_000 + count
                snapshot = self._store.save(tree(serial), meta={"serial": serial}, donor=self._garbage())
                assert is_tree(self._store.load(snapshot), serial)
                print(f"{snapshot.id} {serial}", file=self._ledger, flush=True)

    def _garbage(self) -> modelkeep.Snapshot | None:
        """Some snapshot that a collection may take, told by its age; None where none is found at once."""
        for _ in range(8):
            for entry in self._store.backend.list(f"snapshots/{self._chance.randrange(256):02x}"):
                if entry.modified < self._store.backend.now() - 3600:
                    try:
                        found = self._store.snapshot(layout.snapshot_of(entry.key))
                    except NotFound:
                        continue  # collected since
                    self.reused += 1
                    return found
        return None


def main() -> int:
    """Run some writers as threads of this process; 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["runs", "states"])
    parser.add_argument("place")
    parser.add_argument("ledgers", type=Path)
    for name in ("first", "count", "writers", "commits"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    workers._NICE = 0  # there is no training that it should step back behind
    failed: list[int] = []
    kind = OneWriter if options.kind == "runs" else OneKeeper
    done = [kind(options.place, one, options) for one in range(options.first, options.first + options.count)]
    threads = [threading.Thread(target=_guarded, args=(one.write, failed)) for one in done]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("reused", sum(one.reused for one in done))
    return 1 if failed else 0


def _guarded(write: Callable[[], None], failed: list[int]) -> None:
    try:
        write()
    except BaseException:  # noqa: BLE001  told by the exit code, when the other writers are done
        traceback.print_exc()
        failed.append(1)


if __name__ == "__main__":
    sys.exit(main())
