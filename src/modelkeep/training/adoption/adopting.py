"""A checkpoint of another tool as the first checkpoint of a run."""

import os
import secrets
from dataclasses import dataclass

from modelkeep.errors import Conflict
from modelkeep.store import Attempt, Checkpoint, Store
from modelkeep.training import environment
from modelkeep.training.adoption.reading import Found
from modelkeep.training.plain import encode
from modelkeep.values import Json, check_name

ADOPTED = "adopted"
"""The reason of such a checkpoint, the one part of its state, and the entry of its attempt's record."""


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


def adopt(store: Store, found: Found, name: str) -> Adopted:
    """Make a checkpoint of another tool the newest one of the run ``name``; see `Keep.adopt`.

    Raises:
        Conflict: the run has been trained already.
        InvalidName, RunLocked, StorageError: see `Keep.run`.
    """
    check_name(name)
    record = store.run(name)
    with store.backend.lock(record.lock_key):
        attempts = record.attempts(on_damage=_leave_out)
        if record.exists() and not all(is_adoption(attempt) for attempt in attempts):
            raise Conflict(f"run {name} has been trained already, and stays as it is; adopt into another name")
        checkpoint = _commit(store, found, name)
    return Adopted(name, found.kind, found.path, checkpoint, found.epoch, found.unknown)


def is_adoption(attempt: Attempt) -> bool:
    """Whether an attempt computed nothing but took over a checkpoint: seed and parameters come with the next one."""
    return ADOPTED in attempt.info


def why_not_exact(kind: str, source: str, unknown: tuple[str, ...]) -> str:
    """The sentence that each checkpoint of such a run carries."""
    return f"adopted from {kind} ({source}), which does not have {'; '.join(unknown)}"


def _commit(store: Store, found: Found, name: str) -> Checkpoint:
    step, epoch = found.step, found.epoch
    record = store.run(name)
    token = secrets.token_hex(8)
    source = os.path.basename(os.path.normpath(found.path))
    unknown: list[Json] = [*found.unknown]
    about: dict[str, Json] = {"kind": found.kind, "source": source, "unknown": unknown}
    info: dict[str, Json] = {
        "modelkeep": environment.version(),
        "seed": None,
        "params": encode(None, "params"),
        "fork": None,
        "writer": token,
        "resumed_from": None,
        "environment": None,
        ADOPTED: about,
    }
    attempt = record.start_attempt(info)
    meta: dict[str, Json] = {
        "kind": "checkpoint",
        "run": name,
        "attempt": attempt.number,
        "step": step,
        "epoch": epoch or 0,
        "metrics": {},
        "reason": ADOPTED,
        "not_exact": [why_not_exact(found.kind, source, found.unknown)],
        "parents": [],
    }
    tree = {ADOPTED: {**about, "epoch": epoch, "state": dict(found.state)}}
    snapshot = store.save(tree, meta=meta, writer=token)
    return record.commit_checkpoint(attempt, snapshot, step=step, epoch=epoch or 0, reason=ADOPTED, exact=False)


def _leave_out(key: str, error: Exception) -> None:
    """The run itself will tell."""
