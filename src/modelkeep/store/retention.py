"""Which checkpoints of a run stay, and how the space of the others is freed.

A shard is removed in four steps: it is condemned (an object that says so is created), all snapshots are listed anew,
those shards that any of them holds are kept and the rest is deleted, and the sentence is lifted. A writer looks *after*
its own record is durable whether shards that it needs are condemned or gone: either its record was in the listing, or
it sees that and writes the pieces again. No clock is in it.
"""

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from modelkeep.backend import Entry
from modelkeep.errors import AlreadyExists, Damaged, InvalidName, LimitExceeded, NotFound, StorageError, UnknownFormat
from modelkeep.snapshot.canonical import seal, unseal
from modelkeep.store import layout
from modelkeep.store.documents import read_document
from modelkeep.store.models import ModelRecord
from modelkeep.store.numbering import newest_first, number_of
from modelkeep.store.runs import Checkpoint, RunRecord
from modelkeep.store.versions import Version
from modelkeep.values import SnapshotId

if TYPE_CHECKING:
    from modelkeep.store.store import Store

WRITER = re.compile(r"[0-9a-f]{16}")
"""The name of a writer: of one attempt of a run, or of one open store."""
_UNREADABLE = (Damaged, UnknownFormat, LimitExceeded)
"""A record that cannot be read could hold any shard: then nothing may be deleted."""


@dataclass(frozen=True, slots=True)
class Best:
    """The checkpoints that a metric calls best. NaN and checkpoints without the metric are never among them."""

    metric: str
    mode: str = "min"
    """``"min"`` where less is better, ``"max"`` where more is."""
    keep: int = 1


@dataclass(frozen=True, slots=True)
class Retain:
    """What stays: each of the three keeps a set of its own, and a checkpoint stays when any of them holds it.

    The newest stays always.
    """

    last: int = 3
    every_steps: int | None = None
    """The first checkpoint at or after each multiple of this many steps, from that number on."""
    best: Best | None = None


def to_drop(checkpoints: Sequence[Checkpoint], policy: Retain) -> list[int]:
    """Return the numbers of the checkpoints that ``policy`` lets go, ascending.

    >>> made = [Checkpoint(n, SnapshotId(""), 10 * n, n, {"loss": 1 / n}, 0.0, 1, "policy", True) for n in range(1, 6)]
    >>> to_drop(made, Retain(last=1, every_steps=20))
    [1, 3]
    >>> to_drop(made, Retain(last=1, best=Best("loss", "max")))
    [2, 3, 4]
    """
    there = sorted((one for one in checkpoints if not one.dropped), key=lambda one: one.number)
    # What was saved twice at one step, and is the same by its metrics, is one: at the end of an epoch, and of the run.
    live = list({(one.step, repr(sorted(one.metrics.items()))): one for one in there}.values())
    kept = {one.number for one in live[-max(policy.last, 1) :]}
    if policy.every_steps is not None:
        first_of: dict[int, int] = {}
        for one in live:
            first_of.setdefault(one.step // policy.every_steps, one.number)
        kept |= {number for multiple, number in first_of.items() if multiple}
    if policy.best is not None:
        kept |= {one.number for one in best_of(live, policy.best)}
    return [one.number for one in there if one.number not in kept]


def best_of(checkpoints: Sequence[Checkpoint], best: Best) -> list[Checkpoint]:
    """Return the best ``best.keep`` checkpoints, the best one first; of equal ones the older is better."""
    sign = 1.0 if best.mode == "min" else -1.0
    able = [one for one in checkpoints if not math.isnan(one.metrics.get(best.metric, math.nan))]
    return sorted(able, key=lambda one: (sign * one.metrics[best.metric], one.number))[: best.keep]


def free(store: "Store", dropped: Sequence[Checkpoint]) -> None:
    """Delete the records of dropped checkpoints and the shards that no snapshot holds any more.

    ``RunRecord.drop`` comes first. A snapshot that another checkpoint still names is kept. Where some record of the
    keep cannot be read it could hold any shard: then nothing is deleted, and a warning says so.
    """
    try:
        named = named_snapshots(store)
        freed: set[str] = set()
        for checkpoint in dropped:
            if checkpoint.snapshot_id not in named:
                freed |= store.shards_of(checkpoint.snapshot_id)
                store.delete_snapshot(checkpoint.snapshot_id)
        collect(store, freed - store.shards_in_use())
    except _UNREADABLE as error:
        text = f"no space was freed, since a record cannot be read: {error}; see `modelkeep verify`"
        warnings.warn(text, RuntimeWarning, stacklevel=2)


def free_versions(store: "Store", removed: Sequence[Version]) -> None:
    """Delete the snapshots of removed versions and of their exports, and the shards that no snapshot holds any more.

    ``ModelRecord.remove`` comes first. What another version or a checkpoint still names is kept, and so is a state that
    was not saved for a model: somebody may know it by its id. Where some record of the keep cannot be read nothing is
    deleted, and a warning says so.
    """
    try:
        named = {version.snapshot_id for version in removed}
        for version in removed:
            named |= {export.snapshot_id for export in store.model(version.model).exports(version.number).all()}
        models = {one for one in named if _is_of_model(store, one)}
        collect(store, drop_snapshots(store, models) - store.shards_in_use())
    except _UNREADABLE as error:
        text = f"no space was freed, since a record cannot be read: {error}; see `modelkeep verify`"
        warnings.warn(text, RuntimeWarning, stacklevel=2)


def drop_snapshots(store: "Store", snapshots: AbstractSet[SnapshotId]) -> set[str]:
    """Delete those of the records that nothing names, safely against who publishes them meanwhile.

    Each is condemned, and *then* it is looked what is named; a publisher looks at the sentence after its version is
    durable. A sentence that stands already is another collector's, who takes the record, or has died: then it is left.

    Returns: the shards that the records held.
    """
    condemned_here: list[SnapshotId] = []
    for snapshot in sorted(snapshots):
        try:
            store.backend.create(layout.condemned_snapshot_key(snapshot), b"")  # a full disk still takes a name
        except AlreadyExists:
            continue
        condemned_here.append(snapshot)
    freed: set[str] = set()
    try:
        unnamed = set(condemned_here) - named_snapshots(store)
        for model in valid_models(store):
            model.settle_removals(unnamed)
        for snapshot in sorted(unnamed):
            freed |= store.shards_of(snapshot)
            store.delete_snapshot(snapshot)
    finally:
        for snapshot in condemned_here:
            store.backend.delete(layout.condemned_snapshot_key(snapshot))
    return freed


def _is_of_model(store: "Store", snapshot: SnapshotId) -> bool:
    try:
        return store.snapshot(snapshot).meta.get("kind") in {"model", "export"}
    except NotFound:
        return False


def collect(store: "Store", shards: set[str]) -> set[str]:
    """Delete those of ``shards`` that no snapshot holds, safely against writers that reuse them meanwhile.

    Returns: the shards that were deleted.

    Raises:
        Damaged: a record cannot be read; nothing was deleted, and the sentence stands until the next collection.
    """
    if not shards:
        return set()
    sentence = _condemn(store, shards)
    gone = shards - store.shards_in_use()
    for shard in gone:
        store.backend.delete(layout.shard_key(shard))
    store.backend.delete(sentence)
    return gone


def _condemn(store: "Store", shards: set[str]) -> str:
    """Sentence ``shards``; return the key of the sentence, whose number no other collector has taken."""
    numbers = [number for entry in store.backend.list(layout.CONDEMNED) if (number := _number(entry.key)) is not None]
    for number in count(max(numbers, default=0) + 1):
        sentence = layout.condemned_key(newest_first(number))
        try:
            try:
                store.backend.create(sentence, seal({"shards": [*sorted(shards)]}))
            except StorageError:
                # A full disk, which is to be freed, still takes a name; a sentence without words is one of all shards.
                store.backend.create(sentence, b"")
        except AlreadyExists:
            continue
        return sentence
    raise AssertionError("count() does not end")


def condemned(store: "Store") -> set[str]:
    """The shards that a collector has sentenced; a writer that reused one of them must write its pieces again."""
    found: set[str] = set()
    for sentence in sentences(store):
        named = shards_named(store, sentence)
        if named is None:
            return {layout.shard_of(one.key) for one in store.backend.list(layout.SHARDS)}
        found |= named
    return found


def sentences(store: "Store") -> set[Entry]:
    """The sentences that stand. A number may be used again, and then what stands there is another entry."""
    return {entry for entry in store.backend.list(layout.CONDEMNED) if _number(entry.key) is not None}


def shards_named(store: "Store", sentence: Entry) -> set[str] | None:
    """The shards that are sentenced; None where that cannot be read: it may be any shard that was there."""
    try:
        shards = unseal(read_document(store.backend, sentence.key), sentence.key).get("shards")
    except NotFound:
        return set()  # lifted since it was listed: its shards are gone, which the writer sees
    except (Damaged, LimitExceeded):
        return None
    return {str(shard) for shard in shards} if isinstance(shards, list) else None


def valid_runs(store: "Store") -> Iterator[RunRecord]:
    """The runs of a keep; a folder whose name no run can have is somebody else's."""
    for name in store.backend.folders(layout.RUNS):
        try:
            yield store.run(name)
        except InvalidName:
            continue


def valid_models(store: "Store") -> Iterator[ModelRecord]:
    """The models of a keep; a folder whose name no model can have is somebody else's."""
    for name in store.backend.folders(layout.MODELS):
        try:
            yield store.model(name)
        except InvalidName:
            continue


def named_snapshots(store: "Store") -> set[SnapshotId]:
    """The snapshots that some checkpoint of some run names, or some version of some model; dropped ones not counted.

    Raises:
        Damaged: a record cannot be read: it could name any snapshot, so nothing may be deleted.
    """
    named = {snapshot for run in valid_runs(store) for snapshot in run.named_snapshots()}
    return named.union(*(model.named_snapshots() for model in valid_models(store)))


def clear_leftovers(store: "Store", run: RunRecord) -> int:
    """Remove what killed attempts of a run left: unfinished files, and shards that no snapshot holds.

    The caller holds the run's lock, so none of the run's writers lives. A shard may have been dropped, not forgotten,
    and a fork may be reusing it right now: so each is condemned first. Where a record cannot be read the shards stay,
    and a warning says so: damage elsewhere in the keep is no reason not to train.

    Returns: how many objects were removed.
    """
    if not store.backend.exclusive_locks:
        return 0
    removed = store.backend.clean(run.prefix, math.inf)
    try:
        writers = {str(attempt.info.get("writer")) for attempt in run.attempts()}
        shards: set[str] = set()
        for writer in filter(WRITER.fullmatch, writers):
            folder = layout.shard_folder(writer)
            removed += store.backend.clean(f"{folder}/{writer}-", math.inf)
            names = (layout.shard_of(entry.key) for entry in store.backend.list(folder) if layout.is_known(entry.key))
            shards |= {name for name in names if name.startswith(f"{writer}-")}
        return removed + len(collect(store, shards - store.shards_in_use() if shards else shards))
    except _UNREADABLE as error:
        text = f"leftovers of killed attempts stay, since a record cannot be read: {error}; see `modelkeep verify`"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        return removed


def _number(key: str) -> int | None:
    return number_of(key.rpartition("/")[2].removesuffix(".json"))
