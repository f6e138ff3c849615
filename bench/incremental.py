"""Incremental save: 99 % of the bytes are frozen, as in transfer learning; only what changed is written."""

from functools import partial
from pathlib import Path
from time import perf_counter

from bench import contest, scratch, states
from bench.contest import Contender
from bench.report import Report, compared
from bench.settings import Settings
from bench.worker import Worker

SHARE = 100
"""One array in so many is trained."""


class Frozen:
    """A state of which 1 % of the bytes change, and a store that has its last snapshot as the donor."""

    def __init__(self, size: int, place: str) -> None:
        import modelkeep as mk

        self._arrays = {f"frozen/{name}": array for name, array in states.make(size - size // SHARE, 198).items()}
        self._trained = {f"head/{name}": array for name, array in states.make(size // SHARE, 2, seed=1).items()}
        self._store = mk.open(place).store
        self._place = Path(place)
        self._number = 0
        self._last = self._store.save(self._tree(), meta={"number": 0})

    def save(self, what: str) -> float:
        """Change the trained part (``"changed"``) or everything (``"all"``), save, and return the seconds."""
        states.change(self._trained)
        if what == "all":
            states.change(self._arrays)
        self._number += 1
        scratch.settle()
        started = perf_counter()
        snapshot = self._store.save(self._tree(), meta={"number": self._number}, donor=self._last)
        seconds = perf_counter() - started
        self._store.delete_snapshot(self._last.id)
        self._forget(self._last.shards.keys() - snapshot.shards.keys())
        self._last = snapshot
        return seconds

    def written(self) -> dict[str, int]:
        """Bytes that change, and bytes that one more save of them adds to the keep."""
        before = self._size()
        states.change(self._trained)
        self._number += 1
        self._last = self._store.save(self._tree(), meta={"number": self._number}, donor=self._last)
        return {"changed": states.nbytes(self._trained), "written": self._size() - before}

    def _tree(self) -> states.Arrays:
        return {**self._arrays, **self._trained}

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._place.rglob("*") if path.is_file())

    def _forget(self, shards: set[str]) -> None:
        for shard in shards:
            next(self._place.glob(f"shards/*/{shard}.safetensors")).unlink()


def run(settings: Settings) -> list[Report]:
    """The table of a save of what changed beside a save of everything."""
    with scratch.folder() as root, Worker("bench.incremental.Frozen", size=settings.size, place=str(root)) as worker:
        wanted = {"everything changed": "all", "1 % changed": "changed"}
        contenders = [Contender(name, "ours", partial(worker.call, "save", what)) for name, what in wanted.items()]
        whole, part = contest.hold(contenders, settings.rounds, told=settings.told)
        found = worker.call("written")
    table = compared(f"incremental save of {settings.size >> 20} MiB with modelkeep", [whole, part], whole)
    table.remarks.append(f"{1 / part.ratio(whole):.1f} times faster than a full save")
    extra = found["written"] - found["changed"]
    table.remarks.append(
        f"{found['written']:,} bytes written for {found['changed']:,} changed: "
        f"{found['written'] / found['changed']:.3f} x, {extra:,} bytes more (the record among them)"
    )
    return [table]
