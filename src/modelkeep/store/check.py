"""Read everything in a keep, and name what is damaged: each tensor, the checkpoints and versions that it is part of."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from modelkeep.backend import Backend, Entry
from modelkeep.errors import Damaged, InvalidName, ModelkeepError, NotFound, UnknownFormat
from modelkeep.snapshot import ShardInfo, Snapshot
from modelkeep.snapshot.canonical import unseal
from modelkeep.snapshot.pieces import digest
from modelkeep.snapshot.safetensors import Entry as Lies
from modelkeep.snapshot.safetensors import data_start, parse_header
from modelkeep.store import layout
from modelkeep.store.documents import key_of, read_ahead, read_document
from modelkeep.store.models import ModelRecord
from modelkeep.store.numbering import number_of
from modelkeep.store.retention import valid_models, valid_runs
from modelkeep.store.runs import Checkpoint, RunRecord
from modelkeep.store.versions import Version
from modelkeep.values import Digest, SnapshotId

if TYPE_CHECKING:
    from modelkeep.store.store import Store

_DROPPED = "dropped"
_LOCK = re.compile(r"runs/[^/]+/lock")
_CHECKPOINT = re.compile(r"runs/(?P<run>[^/]+)/checkpoints/(?P<number>[0-9]{10})\.json")
_VERSION = re.compile(r"models/(?P<model>[^/]+)/versions/(?P<number>[0-9]{10})\.json")

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
    """The checkpoints and versions that cannot be loaded because of it: ``run:cnn@1200``, ``model:digits@3``."""
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
    newer: tuple[Damage, ...] = ()
    """Objects of a format that this version does not read: whole, or not, only a newer one can tell."""

    @property
    def ok(self) -> bool:
        """Whether every byte is as it was written, as far as it can be told: False too where some can not."""
        return not self.damages and not self.newer


@dataclass(slots=True)
class _Findings:
    total: int
    tell: Progress | None
    damages: list[Damage] = field(default_factory=list)
    newer: list[Damage] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    done: int = 0

    def add(self, found: Damage, error: Exception | None = None) -> None:
        """Report an object: as damaged, or by its error as of a newer format."""
        (self.newer if isinstance(error, UnknownFormat) else self.damages).append(found)

    def passed(self, nbytes: int) -> None:
        """Count bytes that are behind us."""
        self.done += nbytes
        if self.tell is not None and nbytes:
            self.tell(self.done, self.total)


@dataclass(slots=True)
class _Keep:
    """What the records say."""

    store: "Store"
    findings: _Findings
    snapshots: dict[SnapshotId, Snapshot] = field(default_factory=dict)
    holders: dict[str, list[Snapshot]] = field(default_factory=dict)
    """The snapshots that a shard holds pieces of, by shard."""
    refs: dict[SnapshotId, list[str]] = field(default_factory=dict)
    """The checkpoints and versions that name a snapshot."""


def verify(store: "Store", on_progress: Progress | None = None) -> VerifyReport:
    """Read every object of the keep and compare it with its digest.

    A keep that is being written may be verified: what is committed or dropped meanwhile is no damage.

    Raises:
        StorageError: the storage cannot be listed. Damage, and objects that cannot be read, are reported, never raised.
    """
    entries = list(store.backend.list(""))
    findings = _Findings(sum(entry.size for entry in entries), on_progress)
    keep = _Keep(store, findings)
    shards: list[Entry] = []
    records: list[Entry] = []
    for entry in entries:
        if _LOCK.fullmatch(entry.key):
            findings.passed(entry.size)
        elif not layout.is_known(entry.key):
            findings.foreign.append(_printable(entry.key))
            findings.passed(entry.size)
        else:
            (shards if entry.key.startswith(f"{layout.SHARDS}/") else records).append(entry)
    for entry, read in read_ahead(store.backend, records, lambda entry: read_document(store.backend, entry.key)):
        _check_record(keep, entry.key, read)
        findings.passed(entry.size)
    for snapshot in keep.snapshots.values():
        for shard in snapshot.shards:
            keep.holders.setdefault(shard, []).append(snapshot)
    for run in valid_runs(store):
        _check_checkpoints(keep, run)
    for model in valid_models(store):
        _check_model(keep, model)
    _name_refs(keep)
    _check_shards(keep, shards)
    _check_unlisted(keep, {layout.shard_of(entry.key) for entry in shards})
    return VerifyReport(
        damages=tuple(findings.damages),
        foreign=tuple(findings.foreign),
        objects=len(entries),
        nbytes=findings.total,
        newer=tuple(findings.newer),
    )


def _printable(key: str) -> str:
    """A name that is not Unicode, as a message can hold it."""
    return key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _check_record(keep: _Keep, key: str, read: Callable[[], bytes]) -> None:
    """Any object but a shard: each carries its own digest."""
    is_snapshot = key.startswith(f"{layout.SNAPSHOTS}/")
    try:
        data = read()
        if not data and key.startswith((f"{layout.CONDEMNED}/", f"{layout.CONDEMNED_SNAPSHOTS}/")):
            return  # a sentence of one snapshot, or of all shards by a collector on a full disk
        if not is_snapshot:
            unseal(data, key)
            return
        snapshot = Snapshot.from_json(data, key)
        if layout.snapshot_key(snapshot.id) != key:
            raise Damaged(f"{key}: this is the record of snapshot {snapshot.id}, under another's name", key)
        keep.snapshots[snapshot.id] = snapshot
    except InvalidName:
        keep.findings.foreign.append(_printable(key))
    except ModelkeepError as error:
        if isinstance(error, NotFound) and not key.startswith((f"{layout.RUNS}/", f"{layout.MODELS}/")):
            return  # deleted since it was listed; what still names it is told below
        named = (layout.snapshot_of(key),) if is_snapshot else ()
        keep.findings.add(Damage(key, (), named, (), _told(key, error)), error)


def _told(key: str, error: Exception) -> str:
    if match := _CHECKPOINT.fullmatch(key):
        return f"{error}; this is checkpoint {number_of(match['number'])} of run {match['run']}"
    if match := _VERSION.fullmatch(key):
        return f"{error}; this is version {number_of(match['number'])} of model {match['model']}"
    return str(error)


def _check_checkpoints(keep: _Keep, run: RunRecord) -> None:
    """Collect the checkpoints by snapshot; one whose snapshot is missing is damage too."""
    damaged: dict[str, Exception] = {}
    for checkpoint in run.iterate_checkpoints(on_damage=damaged.__setitem__, damage=(ModelkeepError,)):
        ref = f"run:{run.name}@{checkpoint.step}"
        keep.refs.setdefault(checkpoint.snapshot_id, []).append(ref)
        if not keep.store.has_snapshot(checkpoint.snapshot_id) and not _is_dropped(run, checkpoint, damaged):
            key = layout.snapshot_key(checkpoint.snapshot_id)
            what = "the record is gone; restore it from a copy of the keep, or go on from an older checkpoint"
            keep.findings.damages.append(Damage(key, (), (checkpoint.snapshot_id,), (ref,), what))
    _check_history(run, damaged)
    _add_unknown(keep, damaged)


def _check_model(keep: _Keep, model: ModelRecord) -> None:
    """Collect the versions by snapshot; a snapshot that is missing is damage, and so is an alias of no version."""
    damaged: dict[str, Exception] = {}
    for version in model.iterate_versions(on_damage=damaged.__setitem__, damage=(ModelkeepError,)):
        keep.refs.setdefault(version.snapshot_id, []).append(version.ref)
        if not keep.store.has_snapshot(version.snapshot_id) and not _is_withdrawn(model, version):
            key = layout.snapshot_key(version.snapshot_id)
            what = "the record is gone; restore it from a copy of the keep, or publish the model again"
            keep.findings.damages.append(Damage(key, (), (version.snapshot_id,), (version.ref,), what))
        _check_exports(keep, model, version, damaged)
    for name in model.alias_names():
        try:
            model.history(name, on_damage=damaged.__setitem__)
            model.aliased(name)
        except ModelkeepError as error:
            damaged.setdefault(key_of(error, f"{model.prefix}/aliases/{name}"), error)
    _add_unknown(keep, damaged)


def _check_exports(keep: _Keep, model: ModelRecord, version: Version, damaged: dict[str, Exception]) -> None:
    exports = model.exports(version.number)
    try:
        found = exports.all()
    except ModelkeepError as error:
        damaged.setdefault(key_of(error, model.prefix), error)
        return
    for export in found:
        ref = f"{version.ref} as {export.format}"
        keep.refs.setdefault(export.snapshot_id, []).append(ref)
        if not keep.store.has_snapshot(export.snapshot_id) and not _is_withdrawn(model, version):
            key = layout.snapshot_key(export.snapshot_id)
            what = "the record is gone; restore it from a copy of the keep, or export the version again"
            keep.findings.damages.append(Damage(key, (), (export.snapshot_id,), (ref,), what))


def _is_withdrawn(model: ModelRecord, version: Version) -> bool:
    """Whether a version was removed since it was listed, or may have been: by a removal that cannot be read."""
    try:
        model.version(version.number)
    except ModelkeepError:
        return True
    return False


def _add_unknown(keep: _Keep, damaged: Mapping[str, Exception]) -> None:
    """Report what was found damaged where it was used, and was whole as bytes."""
    known = {found.key for found in [*keep.findings.damages, *keep.findings.newer]}
    for key, error in damaged.items():
        if key not in known:
            keep.findings.add(Damage(key, (), (), (), _told(key, error)), error)


def _check_history(run: RunRecord, damaged: dict[str, Exception]) -> None:
    """Attempts and the end make sense where they lie; what cannot be read at all has been told with its bytes."""
    for read in (run.attempts, run.finished):
        try:
            read()
        except Damaged as error:
            damaged.setdefault(error.key, error)
        except ModelkeepError:
            continue


def _is_dropped(run: RunRecord, checkpoint: Checkpoint, damaged: Mapping[str, Exception]) -> bool:
    """Whether a checkpoint was let go since it was listed, or may have been: by a tombstone that cannot be read."""
    if any(f"/{_DROPPED}/" in key for key in damaged):
        return True
    try:
        return checkpoint.number in run.dropped()
    except ModelkeepError:
        return True


def _name_refs(keep: _Keep) -> None:
    """Add to the damages of records the checkpoints that they hit, which are known only now."""
    for reported in (keep.findings.damages, keep.findings.newer):
        for index, found in enumerate(reported):
            refs = {ref for snapshot in found.snapshots for ref in keep.refs.get(snapshot, [])}
            reported[index] = replace(found, refs=tuple(sorted(refs)))


def _check_unlisted(keep: _Keep, listed: set[str]) -> None:
    """Shards that a record names and that were not listed: written since, or gone."""
    for shard in sorted(keep.holders.keys() - listed):
        key = layout.shard_key(shard)
        try:
            entry = Entry(key, keep.store.backend.size(key), 0.0)
        except NotFound:
            _report_gone(keep, key)
        except ModelkeepError as error:
            _report(keep, key, keep.holders[shard], None, str(error))
        else:
            _check_shard(keep, entry, lambda _: None)


def _report_gone(keep: _Keep, key: str) -> None:
    holders = [one for one in keep.holders.get(layout.shard_of(key), []) if keep.store.has_snapshot(one.id)]
    if holders:  # else it was dropped since it was listed
        what = "the shard is gone; restore it from a copy of the keep, or go on from an older checkpoint"
        _report(keep, key, holders, None, what)


def _check_shards(keep: _Keep, shards: Sequence[Entry]) -> None:
    """Side by side where a store is waited for; the findings come in the order of the keys."""
    findings, known = keep.findings, len(keep.findings.newer)
    alone = keep.store.backend.requests == 1

    def check(entry: Entry) -> _Findings:
        own = _Findings(0, None, newer=findings.newer[:known])
        _check_shard(replace(keep, findings=own), entry, findings.passed if alone else lambda _: None)
        return own

    before = findings.done
    for entry, found in read_ahead(keep.store.backend, shards, check):
        own = found()
        findings.damages += own.damages
        findings.newer += own.newer[known:]
        before += entry.size
        findings.passed(before - findings.done)


def _check_shard(keep: _Keep, entry: Entry, passed: Callable[[int], None]) -> None:
    """Header and pieces. What no record names, of a save under way, has nothing that says what it should be."""
    holders = keep.holders.get(layout.shard_of(entry.key), [])
    read = _Windows(keep.store.backend, entry)
    try:
        prefix = read(0, min(8, entry.size))
        region = read(0, data_start(prefix, entry.size, entry.key))
        header = parse_header(region, size=entry.size, key=entry.key)
        passed(len(region))
        if {ShardInfo(entry.size, digest(region))} != {one.shards[layout.shard_of(entry.key)] for one in holders}:
            what = "the header or the size is not what was written; restore the shard from a copy of the keep"
            if holders:
                _report(keep, entry.key, holders, (), what)
        pieces = _pieces_in(layout.shard_of(entry.key), holders)
        for piece, hit in sorted(pieces.items(), key=lambda one: _start_of(header.entries.get(one[0][1]))):
            lies = header.entries.get(piece[1])
            if lies is None or digest(read(header.data_start + lies.start, header.data_start + lies.stop)) != piece[0]:
                what = f"piece {piece[1]} is not what was written; restore the shard, or go on from an older checkpoint"
                _report(keep, entry.key, hit, piece[0], what)
            passed(lies.stop - lies.start if lies is not None else 0)
    except NotFound:
        _report_gone(keep, entry.key)
    except UnknownFormat as error:
        if holders or not keep.findings.newer:
            _report(keep, entry.key, holders, None, str(error))
        else:  # of one of those records, as far as anybody here can tell
            keep.findings.add(Damage(entry.key, (), (), (), str(error)), error)
    except ModelkeepError as error:
        _report(keep, entry.key, holders, None, str(error))


def _pieces_in(shard: str, holders: Sequence[Snapshot]) -> dict[tuple[Digest, str], list[Snapshot]]:
    """The pieces in a shard by digest and key, each with the snapshots that need it."""
    found: dict[tuple[Digest, str], list[Snapshot]] = {}
    for snapshot in holders:
        for piece, place in snapshot.places.items():
            if place.shard == shard:
                found.setdefault((piece, place.key), []).append(snapshot)
    return found


def _start_of(lies: Lies | None) -> int:
    return -1 if lies is None else lies.start


_WINDOW = 8 << 20
"""Bytes of an object that one request asks for where each request is waited for."""


class _Windows:
    """Ranges of an object; where requests are waited for, many small ones that lie together are one request."""

    def __init__(self, backend: Backend, entry: Entry) -> None:
        self._backend = backend
        self._entry = entry
        self._start = 0
        self._bytes = b""

    def __call__(self, start: int, stop: int) -> bytes:
        if self._backend.requests == 1 or stop - start > _WINDOW:
            return self._backend.read(self._entry.key, start, stop)
        if not self._start <= start <= stop <= self._start + len(self._bytes):
            past = max(stop, min(start + _WINDOW, self._entry.size))
            self._start, self._bytes = start, self._backend.read(self._entry.key, start, past)
        return self._bytes[start - self._start : stop - self._start]


def _report(keep: _Keep, key: str, holders: Sequence[Snapshot], pieces: Digest | tuple[()] | None, what: str) -> None:
    """Report damage of a shard: of one piece, of no piece (``()``) or, with None, of all that lie in it."""
    if pieces is None:
        hit = {piece for piece, _ in _pieces_in(layout.shard_of(key), holders)}
    else:
        hit = {pieces} if isinstance(pieces, str) else set()
    tensors = {path for one in holders for path, spec in one.tensors.items() if not hit.isdisjoint(spec.pieces)}
    refs = {ref for one in holders for ref in keep.refs.get(one.id, [])}
    snapshots = tuple(one.id for one in holders)
    keep.findings.damages.append(Damage(key, tuple(sorted(tensors)), snapshots, tuple(sorted(refs)), what))
