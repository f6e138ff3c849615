"""What a run looks like from outside: how far it is, and whether somebody is training it."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass

from modelkeep.errors import Damaged, LimitExceeded, NotFound, RunLocked, StorageError
from modelkeep.store import Checkpoint, RunRecord, Store
from modelkeep.training.run import is_open
from modelkeep.values import Digest

_HOLDER = re.compile(r"process (\d+) on (.+)")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line about a run."""

    name: str
    state: str
    """``"running"`` (a process has it open), ``"finished"``, ``"interrupted"`` or ``"damaged"``."""
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
    """Bytes of the tensors that its checkpoints hold, each piece counted once."""
    damage: str = ""
    """What could not be read."""


def summarize(store: Store, name: str) -> RunSummary:
    """Return the summary of a run; what is damaged is said in it, not raised."""
    record = store.run(name)
    damage: list[str] = []
    checkpoints: list[Checkpoint] = []
    try:
        found = record.iterate_checkpoints(on_damage=lambda key, error: damage.append(f"{key}: {error}"))
        checkpoints = list(found)
        state = _state(store, record)
    except Damaged as error:
        damage.append(str(error))
        state = "damaged"
    newest = checkpoints[0] if checkpoints else None
    return RunSummary(
        name=name,
        state=state,
        attempts=_count_attempts(record),
        checkpoints=len(checkpoints),
        step=newest.step if newest else None,
        epoch=newest.epoch if newest else None,
        metrics=newest.metrics if newest else {},
        exact=all(one.exact for one in checkpoints),
        time=newest.time if newest else None,
        nbytes=_nbytes(store, checkpoints, damage),
        damage="; ".join(damage),
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


def _count_attempts(record: RunRecord) -> int:
    """Counted by name: what an attempt recorded may be large."""
    return sum(entry.key.endswith("/start.json") for entry in record.backend.list(f"{record.prefix}/attempts"))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _nbytes(store: Store, checkpoints: list[Checkpoint], damage: list[str]) -> int:
    pieces: dict[Digest, int] = {}
    for checkpoint in checkpoints:
        try:
            snapshot = store.snapshot(checkpoint.snapshot_id)
        except (Damaged, NotFound, LimitExceeded) as error:
            damage.append(f"checkpoint {checkpoint.number} (step {checkpoint.step}): {error}")
            continue
        pieces |= {digest: place.nbytes for digest, place in snapshot.places.items()}
    return sum(pieces.values())
