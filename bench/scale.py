"""Many checkpoints in one keep: what it takes to open it, to find the newest and the best, to list the runs."""

import hashlib
import resource
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from bench import scratch
from bench.report import Report
from bench.settings import Settings

_ARRAYS = 50
_RUNS = 100
_TIMES = 7


def run(settings: Settings) -> list[Report]:
    """The table of how each grows with the number of checkpoints, of up to a hundred runs."""
    import modelkeep as mk

    report = Report(
        f"a keep with many checkpoints of {_ARRAYS} arrays, in {_RUNS} runs; warm, ms",
        ["checkpoints", "save (durable)", "open", "run:x@last", "run:x@best", "ls", "memory, MiB"],
    )
    with scratch.folder() as root:
        keep, made = mk.open(root / "keep"), 0
        for count in (_RUNS, 2 * _RUNS) if settings.quick else (1_000, 3_000, 10_000):
            settings.told(f"{count} checkpoints")
            seconds = _grow(keep.store, made, count)
            cells = [seconds / (count - made), *(_warm(act) for act in _acts(root / "keep"))]
            made = count
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            report.add("ours", f"{count:,}", *(f"{cell * 1e3:.1f}" for cell in cells), str(memory))
    return [report]


def _grow(store: object, made: int, count: int) -> float:
    """Save checkpoints until there are ``count``, run after run in turn; return the seconds."""
    from modelkeep.store import Store

    assert isinstance(store, Store)
    arrays = {f"layer{number}/kernel": np.zeros(16, "float32") for number in range(_ARRAYS)}
    started = perf_counter()
    for number in range(made, count):
        step, name = divmod(number, _RUNS)
        record, writer = store.run(f"run{name:03d}"), _writer(name)
        attempt = record.attempts()[0] if record.exists() else record.start_attempt({"writer": writer})
        for array in arrays.values():
            array += 1
        snapshot = store.save(arrays, meta={"kind": "checkpoint", "number": number}, writer=writer)
        metrics = {"val_loss": float(number * 7919 % 10007)}
        record.commit_checkpoint(attempt, snapshot, step=step, epoch=step, metrics=metrics)
    return perf_counter() - started


def _writer(name: int) -> str:
    """The token of a run's attempt: random digits in real life, by which shards are spread over folders."""
    return hashlib.sha256(str(name).encode()).hexdigest()[:16]


def _acts(place: Path) -> list[Callable[[], object]]:
    import modelkeep as mk

    return [
        lambda: mk.open(place),
        lambda: mk.open(place).snapshot("run:run007@last"),
        lambda: mk.open(place).snapshot("run:run007@best:val_loss"),
        lambda: mk.open(place).runs(),
    ]


def _warm(act: Callable[[], object]) -> float:
    act()
    seconds = []
    for _ in range(_TIMES):
        started = perf_counter()
        act()
        seconds.append(perf_counter() - started)
    return median(seconds)
