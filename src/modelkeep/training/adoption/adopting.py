"""A checkpoint of another tool as the first checkpoint of a run."""

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkeep.errors import Conflict
from modelkeep.store import Checkpoint, RunRecord, Store
from modelkeep.training import environment
from modelkeep.training.adoption.kinds import ADOPTED, is_adoption
from modelkeep.training.plain import encode
from modelkeep.values import Json, check_name

if TYPE_CHECKING:
    from modelkeep.training.adoption.reading import Found


@dataclass(frozen=True, slots=True)
class Adopted:
    """What `adopt` has found and made."""

    run: str
    kind: str
    """``"keras"``, ``"tensorflow"``, ``"orbax"`` or ``"torch"``."""
    path: str
    """The file or folder that was read: of several checkpoints the newest."""
    checkpoint: Checkpoint
    epoch: int | None
    """Epochs done; None where only the length of the data can tell, at the next start."""
    unknown: tuple[str, ...]
    """What the file does not have; each begins anew."""


def adopt(store: Store, found: "Found", name: str) -> Adopted:
    """Make a checkpoint of another tool the newest one of the run ``name``; see `Keep.adopt`.

    Raises:
        Conflict: the run has been trained already.
        Damaged: a record of the run cannot be read, so that nobody knows whether it has.
        InvalidName, RunLocked, StorageError: see `Keep.run`.
    """
    check_name(name)
    record = store.run(name)
    with store.backend.lock(record.lock_key):
        if not all(is_adoption(attempt) for attempt in record.attempts()):
            raise Conflict(f"run {name} has been trained already, and stays as it is; adopt into another name")
        checkpoint = _commit(store, record, found)
    return Adopted(name, found.kind, found.path, checkpoint, found.epoch, found.unknown)


def _commit(store: Store, record: RunRecord, found: "Found") -> Checkpoint:
    step, epoch = found.step, found.epoch
    token = secrets.token_hex(8)
    source = os.path.basename(os.path.normpath(found.path))
    info: dict[str, Json] = {
        "modelkeep": environment.version(),
        "seed": None,
        "params": encode(None, "params"),
        "fork": None,
        "writer": token,
        "resumed_from": None,
        "environment": None,
        ADOPTED: {"kind": found.kind, "source": source, "unknown": [*found.unknown]},
    }
    attempt = record.start_attempt(info)
    meta: dict[str, Json] = {
        "kind": "checkpoint",
        "run": record.name,
        "attempt": attempt.number,
        "step": step,
        "epoch": epoch or 0,
        "metrics": {},
        "reason": ADOPTED,
        "not_exact": [f"adopted from {found.kind} ({source}), which does not have {'; '.join(found.unknown)}"],
        "parents": [],
    }
    tree = {ADOPTED: {"kind": found.kind, "epoch": epoch, "state": dict(found.state)}}
    snapshot = store.save(tree, meta=meta, writer=token)
    return record.commit_checkpoint(attempt, snapshot, step=step, epoch=epoch or 0, reason=ADOPTED, exact=False)
