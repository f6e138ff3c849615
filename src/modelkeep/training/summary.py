"""What a run looks like from outside: how far it is, and whether somebody is training it."""

import html
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelkeep.errors import Damaged, LimitExceeded, NotFound, RunLocked, StorageError
from modelkeep.store import WRITER, Attempt, RunRecord, Store, layout
from modelkeep.training.run import is_open

_HOLDER = re.compile(r"process (\d+) on (.+)")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line about a run."""

    name: str
    state: str
    """``"running"`` (a process has it open), ``"finished"``, ``"interrupted"``, or ``"damaged"`` when it has
    checkpoints and the record of none can be read, or how it stands cannot."""
    attempts: int
    """How many processes have worked on it."""
    checkpoints: int
    """How many it has on disk."""
    step: int | None
    """Of the newest checkpoint; None when there is none. So is what follows."""
    epoch: int | None
    metrics: Mapping[str, float]
    exact: bool
    time: float | None
    """When the newest checkpoint was made: seconds since the epoch."""
    nbytes: int
    """Bytes of the files that hold what it saved."""
    damage: str = ""
    """What could not be read of what is above; `Keep.verify` reads everything."""


def summarize(store: Store, name: str) -> RunSummary:
    """Return the summary of a run; what is damaged is said in it, not raised."""
    record = store.run(name)
    damage: list[str] = []
    newest, count, state = None, 0, "damaged"

    def on_damage(_: str, error: Exception) -> None:
        damage.append(str(error))

    attempts = record.attempts(on_damage=on_damage)
    try:
        newest = next(record.iterate_checkpoints(on_damage=on_damage), None)
        count = record.count_checkpoints()
        state = "damaged" if count and newest is None else _state(store, record)
    except (Damaged, LimitExceeded) as error:
        damage.append(str(error))
    return RunSummary(
        name=name,
        state=state,
        attempts=len(attempts),
        checkpoints=count,
        step=newest.step if newest else None,
        epoch=newest.epoch if newest else None,
        metrics=newest.metrics if newest else {},
        exact=newest.exact if newest else True,
        time=newest.time if newest else None,
        nbytes=_nbytes(store, attempts),
        damage="; ".join(dict.fromkeys(damage)),
    )


def _state(store: Store, record: RunRecord) -> str:
    if record.finished() is not None:
        return "finished"
    return "running" if is_open(store, record.name) or is_running(record) else "interrupted"


def is_running(record: RunRecord) -> bool:
    """Whether another process has the run open.

    The lock is tried only where its last holder may still be alive: to try it takes it for a moment.
    """
    try:
        holder = record.backend.read(record.lock_key).decode("utf-8", "replace").strip()
    except (NotFound, StorageError):
        return False
    match = _HOLDER.fullmatch(holder)
    is_here = match is not None and match[2] == platform.node()
    if match is not None and is_here and int(match[1]) != os.getpid() and not _is_alive(int(match[1])):
        return False
    try:
        with record.backend.lock(record.lock_key):
            return False
    except RunLocked:
        return True
    except StorageError:  # a keep that may only be read
        return is_here


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _nbytes(store: Store, attempts: Sequence[Attempt]) -> int:
    """By listings alone: to read ten thousand records takes as many milliseconds."""
    found = 0
    for attempt in attempts:
        writer = str(attempt.info.get("writer"))
        if WRITER.fullmatch(writer):
            shards = store.backend.list(layout.shard_folder(writer))
            found += sum(entry.size for entry in shards if layout.shard_of(entry.key).startswith(f"{writer}-"))
    return found


def html_table(where: str, runs: Sequence[RunSummary]) -> str:
    """The runs of a keep as a table for notebooks; all text is escaped."""
    head = "".join(f"<th>{name}</th>" for name in ("run", "state", "step", "epoch", "metrics", "saved"))
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(one))}</tr>" for one in runs)
    return f"<table><caption>keep {html.escape(where)}</caption><tr>{head}</tr>{rows}</table>"


def _cells(run: RunSummary) -> list[str]:
    saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.time)) if run.time is not None else ""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in run.metrics.items())
    number = ("" if one is None else str(one) for one in (run.step, run.epoch))
    return [html.escape(text) for text in (run.name, run.state, *number, metrics, saved)]
