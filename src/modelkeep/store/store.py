"""``Store``: the snapshots and runs of one keep, on one backend."""

import secrets
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from modelkeep.backend import Backend
from modelkeep.errors import AlreadyExists, Damaged, NotFound, UnknownFormat
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.canonical import seal, unseal
from modelkeep.state.tree import flatten
from modelkeep.store import check, layout, sweep
from modelkeep.store.load import read_state
from modelkeep.store.resolve import resolve
from modelkeep.store.retention import condemned
from modelkeep.store.runs import RunRecord
from modelkeep.store.save import Donor, write_state
from modelkeep.values import Json, Ref, SnapshotId

FORMAT = 1


class Store:
    """Snapshots and runs on a backend.

    >>> from modelkeep.backend import MemoryBackend
    >>> import numpy as np
    >>> store = Store.open(MemoryBackend("docs-store"))
    >>> snapshot = store.save({"weights": np.arange(3)}, meta={"kind": "state"})
    >>> store.load(snapshot)
    {'weights': array([0, 1, 2])}
    """

    def __init__(self, backend: Backend, keep_id: str) -> None:
        """Use `Store.open`."""
        self.backend = backend
        self.id = keep_id
        self._token = secrets.token_hex(8)
        self._counts: dict[str, int] = {}
        self._runs: dict[str, RunRecord] = {}
        self._shards_of: dict[SnapshotId, frozenset[str]] = {}

    @classmethod
    def open(cls, backend: Backend, *, create: bool = True) -> "Store":
        """Open the keep on ``backend``; where there is none, an empty place becomes one.

        Raises:
            NotFound: there is none, and ``create`` is False.
            UnknownFormat: the place holds other things, or a keep of a newer format.
            Damaged: ``keep.json`` is not what was written.
        """
        try:
            document = unseal(backend.read(layout.KEEP), layout.KEEP)
        except NotFound:
            document = _create(backend, create=create)
        version = document.get("modelkeep")
        if version != FORMAT:
            raise UnknownFormat(
                f"{backend.url} is a keep of format {version}, and this version of modelkeep reads {FORMAT}; upgrade it"
            )
        return cls(backend, str(document["id"]))

    def save(
        self, tree: Any, *, meta: Mapping[str, Json] | None = None, writer: str = "", donor: Snapshot | None = None
    ) -> Snapshot:
        """Make a state durable; it is when this returns.

        Args:
            tree: nested dicts, lists and tuples of arrays and JSON values; see `modelkeep.state`.
            meta: JSON that describes it; part of the snapshot's id.
            writer: 16 hexadecimal digits under which the shards are named; by default those of this object.
            donor: a snapshot whose pieces are not written again where they are the same.

        Raises:
            UnsupportedState: a leaf that cannot be kept bit for bit, by its path.
            StorageError: the storage refused; what was there before is intact.
        """
        state = flatten(tree)
        avoid = condemned(self) if donor is not None else set()
        while True:
            pieces, shard = Donor.of(donor, without=avoid), self._next_shard(writer)
            written = write_state(self.backend, state, meta or {}, shard=shard, donor=pieces)
            snapshot = self._commit(written, shard)
            # Only now: a collector that had not seen our record has sentenced its shards before, or deleted them.
            gone = self._going(snapshot.shards.keys() & pieces.shards.keys())
            if not gone:
                return snapshot
            avoid |= gone
            self.delete_snapshot(snapshot.id)

    def load(
        self,
        snapshot: Snapshot | SnapshotId,
        *,
        select: Sequence[str] | None = None,
        limit_bytes: int | None = None,
    ) -> Any:
        """Return the state of a snapshot, every byte checked; see `modelkeep.store.load.read_state`."""
        record = snapshot if isinstance(snapshot, Snapshot) else self.snapshot(snapshot)
        return read_state(self.backend, record, select=select, limit_bytes=limit_bytes)

    def snapshot(self, snapshot_id: SnapshotId) -> Snapshot:
        """Return the record of a snapshot, checked.

        Raises:
            NotFound, Damaged, UnknownFormat, LimitExceeded.
        """
        key = layout.snapshot_key(snapshot_id)
        try:
            data = self.backend.read(key)
        except NotFound:
            raise NotFound(f"there is no snapshot {snapshot_id} in {self.backend.url}") from None
        snapshot = Snapshot.from_json(data, key)
        if snapshot.id != snapshot_id:
            raise Damaged(f"{key}: this is the record of snapshot {snapshot.id}, under another's name", key)
        self._shards_of[snapshot_id] = frozenset(snapshot.shards)
        return snapshot

    def has_snapshot(self, snapshot_id: SnapshotId) -> bool:
        """Whether a record of that id is there; it is not read."""
        return self._is_there(layout.snapshot_key(snapshot_id))

    def delete_snapshot(self, snapshot_id: SnapshotId) -> None:
        """Remove a record; its shards stay until they are swept."""
        self.backend.delete(layout.snapshot_key(snapshot_id))
        self._shards_of.pop(snapshot_id, None)

    def runs(self) -> list[str]:
        """The names of the runs, ascending."""
        prefix = f"{layout.RUNS}/"
        return sorted({entry.key.removeprefix(prefix).split("/")[0] for entry in self.backend.list(layout.RUNS)})

    def run(self, name: str) -> RunRecord:
        """The record of a run, which may not exist yet. Raises InvalidName."""
        if name not in self._runs:
            self._runs[name] = RunRecord(self.backend, name)
        return self._runs[name]

    def resolve(self, ref: Ref | str) -> Snapshot:
        """Return the snapshot that a REF names. Raises InvalidRef, NotFound, Damaged."""
        return resolve(self, Ref.parse(ref) if isinstance(ref, str) else ref)

    def verify(self, on_progress: check.Progress | None = None) -> check.VerifyReport:
        """Read everything and name what is damaged; see `modelkeep.store.check.verify`."""
        return check.verify(self, on_progress)

    def gc(self, *, dry_run: bool = True, grace: float = sweep.GRACE_SECONDS) -> sweep.GcReport:
        """Remove what nothing names; see `modelkeep.store.sweep.gc`."""
        return sweep.gc(self, dry_run=dry_run, grace=grace)

    def shards_of(self, snapshot_id: SnapshotId) -> frozenset[str]:
        """The shards that a snapshot holds pieces in; none for one that is not there. Raises Damaged."""
        if snapshot_id not in self._shards_of:
            try:
                self.snapshot(snapshot_id)
            except NotFound:
                return frozenset()
        return self._shards_of[snapshot_id]

    def shards_in_use(self) -> set[str]:
        """The shards that any snapshot of the keep holds, by a new listing. Raises Damaged."""
        present = {layout.snapshot_of(entry.key) for entry in self.backend.list(layout.SNAPSHOTS)}
        self._shards_of = {one: shards for one, shards in self._shards_of.items() if one in present}
        return {shard for snapshot_id in present for shard in self.shards_of(snapshot_id)}

    def _commit(self, snapshot: Snapshot, shard: str) -> Snapshot:
        key = layout.snapshot_key(snapshot.id)
        try:
            self.backend.create(key, snapshot.to_json())
        except AlreadyExists:
            # The same state with the same metadata: the record that is there says where its pieces lie.
            snapshot = self.snapshot(snapshot.id)
            self.backend.delete(layout.shard_key(shard))
        self._shards_of[snapshot.id] = frozenset(snapshot.shards)
        return snapshot

    def _going(self, shards: AbstractSet[str]) -> set[str]:
        """Those of the shards that are condemned or gone."""
        if not shards:
            return set()
        return {shard for shard in shards if shard in condemned(self) or not self._is_there(layout.shard_key(shard))}

    def _is_there(self, key: str) -> bool:
        try:
            self.backend.size(key)
        except NotFound:
            return False
        return True

    def _next_shard(self, writer: str) -> str:
        token = writer or self._token
        self._counts[token] = self._counts.get(token, 0) + 1
        return f"{token}-{self._counts[token]}"


def _create(backend: Backend, *, create: bool) -> dict[str, Json]:
    there = next(iter(backend.list("", limit=1)), None)
    if there is not None:
        raise UnknownFormat(
            f"{backend.url} is not a keep: it holds {there.key} and no {layout.KEEP}; name an empty or new place"
        )
    if not create:
        raise NotFound(f"there is no keep in {backend.url}; name one that is there, or save something into it first")
    document: dict[str, Json] = {"modelkeep": FORMAT, "id": secrets.token_hex(16), "created": backend.now()}
    try:
        backend.create(layout.KEEP, seal(document))
    except AlreadyExists:
        return unseal(backend.read(layout.KEEP), layout.KEEP)
    return document
