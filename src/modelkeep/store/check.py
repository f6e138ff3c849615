"""Read everything in a keep, and name what is damaged: each tensor, and the checkpoints that it is part of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelkeep.errors import Damaged, ModelkeepError
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.canonical import unseal
from modelkeep.snapshot.pieces import digest
from modelkeep.snapshot.safetensors import Header, data_start, parse_header
from modelkeep.store import layout
from modelkeep.values import Digest, SnapshotId

if TYPE_CHECKING:
    from modelkeep.backend import Entry
    from modelkeep.store.store import Store

Progress = Callable[[int, int], None]
"""Called with the bytes that are read and the bytes of the whole keep."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not as it was written."""

    key: str
    tensors: tuple[str, ...]
    """Paths of the tensors whose bytes differ; empty for what is no tensor data."""
    snapshots: tuple[SnapshotId, ...]
    """The snapshots that it is part of."""
    refs: tuple[str, ...]
    """The checkpoints that cannot be loaded because of it, such as ``run:cnn@1200``."""
    what: str
    """What was found, and what to do."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found."""

    damages: tuple[Damage, ...]
    foreign: tuple[str, ...]
    """Keys of files that no keep has."""
    objects: int
    nbytes: int

    @property
    def ok(self) -> bool:
        """Whether every byte is as it was written."""
        return not self.damages


@dataclass(slots=True)
class _Findings:
    damages: list[Damage] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    done: int = 0


def verify(store: "Store", on_progress: Progress | None = None) -> VerifyReport:
    """Read every object of the keep and compare it with its digest.

    Raises:
        StorageError: the storage cannot be read at all. Damage is reported, never raised.
    """
    entries = list(store.backend.list(""))
    total = sum(entry.size for entry in entries)
    findings = _Findings()
    snapshots = _check_records(store, entries, findings)
    names = _names(store, findings)
    holders: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots.values():
        for shard in snapshot.shards:
            holders.setdefault(shard, []).append(snapshot)
    present = {layout.shard_of(entry.key) for entry in entries if entry.key.startswith(f"{layout.SHARDS}/")}
    for shard in sorted(holders.keys() - present):
        what = "the shard is gone; restore it from a copy of the keep, or go on from an older checkpoint"
        findings.damages.append(
            _damage(layout.shard_key(shard), _tensors_in(shard, holders[shard]), holders[shard], names, what)
        )
    for entry in entries:
        if entry.key.startswith(f"{layout.SHARDS}/"):
            _check_shard(store, entry, holders.get(layout.shard_of(entry.key), []), names, findings)
        findings.done += entry.size
        if on_progress is not None:
            on_progress(findings.done, total)
    return VerifyReport(tuple(findings.damages), tuple(findings.foreign), len(entries), total)


def _check_records(store: "Store", entries: list["Entry"], findings: _Findings) -> dict[SnapshotId, Snapshot]:
    """All objects but shards: each carries its own digest."""
    snapshots: dict[SnapshotId, Snapshot] = {}
    for entry in entries:
        key = entry.key
        if key.startswith(f"{layout.SHARDS}/") or key.endswith("/lock"):
            continue
        if not layout.is_known(key):
            findings.foreign.append(key)
            continue
        try:
            if key.startswith(f"{layout.SNAPSHOTS}/"):
                snapshot = Snapshot.from_json(store.backend.read(key), key)
                if layout.snapshot_key(snapshot.id) != key:
                    raise _misplaced(key, snapshot.id)
                snapshots[snapshot.id] = snapshot
            else:
                unseal(store.backend.read(key), key)
        except ModelkeepError as error:
            named = (layout.snapshot_of(key),) if key.startswith(f"{layout.SNAPSHOTS}/") else ()
            findings.damages.append(Damage(key, (), named, (), str(error)))
    return snapshots


def _misplaced(key: str, snapshot: SnapshotId) -> ModelkeepError:
    return Damaged(f"{key}: this is the record of snapshot {snapshot}, under another's name", key)


def _names(store: "Store", findings: _Findings) -> dict[SnapshotId, list[str]]:
    """The checkpoints by snapshot; a checkpoint whose snapshot is missing is damage too."""
    names: dict[SnapshotId, list[str]] = {}
    for run in store.runs():
        try:
            for checkpoint in store.run(run).iterate_checkpoints(on_damage=_reported_already):
                ref = f"run:{run}@{checkpoint.step}"
                names.setdefault(checkpoint.snapshot_id, []).append(ref)
                if not store.has_snapshot(checkpoint.snapshot_id):
                    key = layout.snapshot_key(checkpoint.snapshot_id)
                    what = "the record is gone; restore it from a copy of the keep, or go on from an older checkpoint"
                    findings.damages.append(Damage(key, (), (checkpoint.snapshot_id,), (ref,), what))
        except ModelkeepError:
            continue  # a tombstone that cannot be read; it is among the damages already
    for index, damage in enumerate(findings.damages):
        refs = tuple(ref for snapshot in damage.snapshots for ref in names.get(snapshot, []))
        findings.damages[index] = Damage(damage.key, damage.tensors, damage.snapshots, refs, damage.what)
    return names


def _check_shard(
    store: "Store", entry: "Entry", holders: list[Snapshot], names: dict[SnapshotId, list[str]], findings: _Findings
) -> None:
    shard = layout.shard_of(entry.key)
    expected = {snapshot.shards[shard] for snapshot in holders}
    try:
        region = _header_region(store, entry)
        header = parse_header(region, size=entry.size, key=entry.key)
    except ModelkeepError as error:
        findings.damages.append(_damage(entry.key, _tensors_in(shard, holders), holders, names, str(error)))
        return
    if not holders:
        return  # of a save under way, or garbage: nothing says what its bytes should be
    for info in expected:
        if info.header != digest(region) or info.size != entry.size:
            what = "the header is not the one that was written; restore the shard from a copy of the keep"
            findings.damages.append(_damage(entry.key, (), holders, names, what))
            break
    for key, bad in _bad_pieces(store, entry, header, shard, holders):
        what = f"piece {key} is not what was written; restore the shard from a copy, or go on from an older checkpoint"
        hit = [snapshot for snapshot in holders if bad in snapshot.places]
        findings.damages.append(_damage(entry.key, _tensors_of(bad, hit), hit, names, what))


def _header_region(store: "Store", entry: "Entry") -> bytes:
    prefix = store.backend.read(entry.key, 0, min(8, entry.size))
    return store.backend.read(entry.key, 0, data_start(prefix, entry.size, entry.key))


def _bad_pieces(
    store: "Store", entry: "Entry", header: Header, shard: str, holders: list[Snapshot]
) -> Iterator[tuple[str, Digest]]:
    wanted = {
        place.key: piece for snapshot in holders for piece, place in snapshot.places.items() if place.shard == shard
    }
    for key, piece in wanted.items():
        lies = header.entries.get(key)
        if lies is None:
            yield key, piece
            continue
        data = store.backend.read(entry.key, header.data_start + lies.start, header.data_start + lies.stop)
        if digest(data) != piece:
            yield key, piece


def _tensors_in(shard: str, holders: list[Snapshot]) -> tuple[str, ...]:
    pieces = {piece for one in holders for piece, place in one.places.items() if place.shard == shard}
    return tuple(sorted({path for one in holders for path, spec in one.tensors.items() if pieces & set(spec.pieces)}))


def _tensors_of(piece: Digest, holders: list[Snapshot]) -> tuple[str, ...]:
    return tuple(sorted({path for one in holders for path, spec in one.tensors.items() if piece in spec.pieces}))


def _damage(
    key: str, tensors: tuple[str, ...], holders: list[Snapshot], names: dict[SnapshotId, list[str]], what: str
) -> Damage:
    snapshots = tuple(snapshot.id for snapshot in holders)
    refs = tuple(sorted({ref for snapshot in snapshots for ref in names.get(snapshot, [])}))
    return Damage(key, tensors, snapshots, refs, what)


def _reported_already(key: str, error: Exception) -> None:
    """A checkpoint's record that cannot be read is among the damages of all records."""
    del key, error
