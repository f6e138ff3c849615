"""Garbage collection: what no run and no model names any more, and what was never named.

Checkpoints that no run names, models and exports that no version names, shards that no snapshot holds and sentences
that are served are removed. A state that `Keep.save_state` kept is named by its id, which somebody may hold: it is
never garbage. What was never named may be about to be, by a save under way: so it must be a day old by the store's
clock, and no run may be held by a live process. Publishers hold no lock: models are condemned first (`drop_snapshots`).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkeep.errors import NotFound, RunLocked, UsageError
from modelkeep.store import layout
from modelkeep.store.retention import collect, drop_snapshots, named_snapshots, valid_runs

if TYPE_CHECKING:
    from modelkeep.store.store import Store

_REASONS = {
    "checkpoint": "a checkpoint that no run names",
    "model": "a model that no version names",
    "export": "an export that no version names",
}
"""Why a snapshot is garbage that nothing names, by its kind; one of any other kind never is."""

GRACE_SECONDS = 24 * 3600.0
"""The least age of an object that nothing names, before it is taken for garbage: no grace is shorter than this."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """One object that is removed."""

    key: str
    nbytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a collection removed, or with ``dry_run`` would remove."""

    removed: tuple[Garbage, ...]
    kept_young: int
    """Objects that nothing names, and that are younger than a day or than the grace."""
    dry_run: bool

    @property
    def nbytes(self) -> int:
        """Bytes that are freed."""
        return sum(one.nbytes for one in self.removed)


def gc(store: "Store", *, dry_run: bool = True, grace: float = GRACE_SECONDS) -> GcReport:
    """Remove what nothing names and is older than a day and than ``grace`` seconds; see `Keep.gc`.

    A save under way holds no lock unless a run makes it, so a shorter grace than a day would lose what it writes.
    With ``dry_run`` nothing is changed and no lock is needed.

    Raises:
        RunLocked: a run is held by a live process, which may be about to name what nothing names yet.
        Damaged: a record cannot be read: it could name anything, so nothing is removed.
        UsageError: a grace below 0.
    """
    if grace < 0:
        raise UsageError(f"the grace is a number of seconds of 0 or more, not {grace}")
    with ExitStack() as held:
        if not dry_run:
            _hold_runs(store, held)
        before = store.backend.now() - max(grace, GRACE_SECONDS)
        unnamed = list(_unnamed(store))
        removed = [one for one, modified in unnamed if modified < before]
        kept_young = len(unnamed) - len(removed)
        if not dry_run:
            # Once more: a run that was started since has saved what looks old by a clock that has jumped. Either it is
            # held still, or it has named what it saved.
            _hold_runs(store, held)
            removed = _remove(store, removed, before)
    return GcReport(tuple(removed), kept_young, dry_run)


def _hold_runs(store: "Store", held: ExitStack) -> None:
    for run in valid_runs(store):
        try:
            held.enter_context(store.backend.lock(run.lock_key))
        except RunLocked as error:
            raise RunLocked(f"run {run.name} is being written; collect when it has ended: {error}") from None


def _unnamed(store: "Store") -> Iterator[tuple[Garbage, float]]:
    named = named_snapshots(store)
    held: set[str] = set()
    for entry in store.backend.list(layout.SNAPSHOTS):
        if not layout.is_known(entry.key):
            continue
        try:
            snapshot = store.snapshot(layout.snapshot_of(entry.key))
        except NotFound:
            continue  # a run has dropped it since it was listed: with dry_run none is held
        reason = _REASONS.get(str(snapshot.meta.get("kind")))
        if snapshot.id in named or reason is None:
            held |= snapshot.shards.keys()
        else:
            yield Garbage(entry.key, entry.size, reason), entry.modified
    for entry in store.backend.list(layout.SHARDS):
        if layout.is_known(entry.key) and layout.shard_of(entry.key) not in held:
            yield Garbage(entry.key, entry.size, "a shard that no snapshot holds"), entry.modified


def _remove(store: "Store", garbage: Sequence[Garbage], before: float) -> list[Garbage]:
    """Records first, then the shards that only they held; sentences of collectors that died long ago are lifted.

    What needs no room is removed before anything is written: the disk may be full. Returns what was removed: what
    somebody has named since is not.
    """
    store.backend.clean("", before)
    for run in valid_runs(store):
        run.settle_dropped()
    named = named_snapshots(store)
    records = {one for one in garbage if _is_record(one) and layout.snapshot_of(one.key) not in named}
    models = {layout.snapshot_of(one.key) for one in records if one.reason != _REASONS["checkpoint"]}
    for snapshot_id in sorted({layout.snapshot_of(one.key) for one in records} - models):
        store.delete_snapshot(snapshot_id)
    drop_snapshots(store, models)  # publishers hold no lock
    left = {layout.snapshot_key(one) for one in models if store.has_snapshot(one)}
    gone = collect(store, {layout.shard_of(one.key) for one in garbage if not _is_record(one)})
    for entry in [*store.backend.list(layout.CONDEMNED), *store.backend.list(layout.CONDEMNED_SNAPSHOTS)]:
        if entry.modified < before and layout.is_known(entry.key):
            store.backend.delete(entry.key)
    return [one for one in garbage if (one in records and one.key not in left) or layout.shard_of(one.key) in gone]


def _is_record(one: Garbage) -> bool:
    return one.key.startswith(f"{layout.SNAPSHOTS}/")
