"""``Store``: the snapshots, runs and models of one keep, on one backend."""

import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any

from modelkeep.backend import SHARD_BYTES, Backend, Entry
from modelkeep.errors import (
    AlreadyExists,
    Damaged,
    LimitExceeded,
    NotFound,
    StorageError,
    UnknownFormat,
    UsageError,
)
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.canonical import canonical_json, check_json, parse_json, seal, unseal
from modelkeep.snapshot.pieces import digest
from modelkeep.state.tree import FlatState, flatten
from modelkeep.store import check, layout, sweep
from modelkeep.store.documents import read_document
from modelkeep.store.load import read_state
from modelkeep.store.models import ModelRecord
from modelkeep.store.promote import Graft
from modelkeep.store.resolve import resolve
from modelkeep.store.retention import condemned, sentences, shards_named, valid_models
from modelkeep.store.runs import RunRecord
from modelkeep.store.save import MAX_DONOR_SHARDS, Donor, delete_shards, write_state
from modelkeep.values import Json, Ref, SnapshotId

FORMAT = 1

_TOKEN = re.compile(r"[0-9a-f]{16}")
_COPY = "modelkeep.copy"
"""In the metadata of a state that was saved again while what it had left before was being collected."""

_TRIES = 3
"""How often a record is made that was there, and is gone when it is read."""

_LOOKED_AT = 1000
"""Names of a folder that are looked at to tell whether it is of a keep."""


class Store:
    """Snapshots, runs and models on a backend.

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
        self._guard = threading.Lock()
        self._runs: dict[str, RunRecord] = {}
        self._models: dict[str, ModelRecord] = {}
        self._shards_of: dict[SnapshotId, frozenset[str]] = {}

    @classmethod
    def open(cls, backend: Backend, *, create: bool = True) -> "Store":
        """Open the keep on ``backend``; where there is none, an empty place becomes one.

        Raises:
            NotFound: there is none, and ``create`` is False.
            UnknownFormat: the place holds other things, or a keep of a newer format.
            Damaged: ``keep.json`` is not what was written, or is gone from what looks like a keep.
        """
        try:
            data = read_document(backend, layout.KEEP)
        except NotFound:
            data = _create(backend, create=create)
        return cls(backend, _keep_id(backend, data))

    def save(
        self,
        tree: Any,
        *,
        meta: Mapping[str, Json] | None = None,
        writer: str = "",
        donor: Snapshot | None = None,
        unchanged: AbstractSet[str] = frozenset(),
        donor_shards: int = MAX_DONOR_SHARDS,
    ) -> Snapshot:
        """Make a state durable; it is when this returns.

        Args:
            tree: nested dicts, lists and tuples of arrays and JSON values; see `modelkeep.state`. Also what `flatten`
                made of them.
            meta: JSON that describes it; part of the snapshot's id. Where an equal state with equal metadata is there
                and its shards are just being collected, or gone, ``"modelkeep.copy"`` is added: a snapshot of its own.
            writer: 16 hexadecimal digits under which the shards are named; by default those of this object.
            donor: a snapshot whose pieces are not written again where they are the same.
            unchanged: paths of arrays that are bit for bit those of ``donor``: they are not even read.
            donor_shards: from how many shards pieces are taken at most; those in others are written again. As many
                times more as shards are smaller here than `SHARD_BYTES`.

        Raises:
            UnsupportedState: a leaf that cannot be kept bit for bit, by its path.
            UsageError: ``meta`` is not JSON, or ``writer`` is no token.
            LimitExceeded: the JSON of the state would be too large to be read again.
            StorageError: the storage refused; what was there before is intact.
        """
        state = tree if isinstance(tree, FlatState) else flatten(tree)

        most = donor_shards * max(1, SHARD_BYTES // self.backend.shard_bytes)

        def draft(avoid: AbstractSet[str]) -> tuple[FlatState, Donor]:
            return state, Donor.of(donor, without=avoid, unchanged=unchanged, most=most)

        run = (meta or {}).get("run")
        ours = donor is None or (run is not None and donor.meta.get("run") == run)
        return self._save(draft, meta, writer, condemned(self) if donor is not None else set(), ours=ours)

    def promote(
        self, source: Snapshot, tree: Any, *, meta: Mapping[str, Json] | None = None, writer: str = ""
    ) -> Snapshot:
        """Make a state of parts of one that is kept and of what is new; durable when this returns.

        The tensors of the source are neither read nor written, whichever shards they lie in: only where those are just
        being collected they are read, checked, and written again.

        Args:
            source: a snapshot of this keep.
            tree: as of `save`, where a `Part` may stand as any value of a dict with text keys.
            meta: as of `save`; nothing of the source's is taken over.
            writer: as of `save`.

        Raises:
            NotFound: a part that the source does not have.
            Damaged: the source was collected at this moment.
            UnsupportedState, UsageError, LimitExceeded, StorageError: as of `save`.

        >>> from modelkeep.backend import MemoryBackend
        >>> from modelkeep.store import Part
        >>> import numpy as np
        >>> store = Store.open(MemoryBackend("docs-promote"))
        >>> checkpoint = store.save({"model": {"kernel": np.arange(2)}, "step": 7}, meta={"kind": "checkpoint"})
        >>> model = store.promote(checkpoint, {"model": Part("model"), "card": "digits"}, meta={"kind": "model"})
        >>> store.load(model)
        {'card': 'digits', 'model': {'kernel': array([0, 1])}}
        """
        graft = Graft.of(source, tree)

        def draft(avoid: AbstractSet[str]) -> tuple[FlatState, Donor]:
            donor = graft.donor(avoid)
            return graft.read_back(self.backend, donor), donor

        return self._save(draft, meta, writer, condemned(self), ours=False)

    def load(
        self,
        snapshot: Snapshot | SnapshotId,
        *,
        select: Sequence[str] | None = None,
        into: Any = None,
        limit_bytes: int | None = None,
    ) -> Any:
        """Return the state of a snapshot, every byte checked; see `modelkeep.store.load.read_state`."""
        record = snapshot if isinstance(snapshot, Snapshot) else self.snapshot(snapshot)
        return read_state(self.backend, record, select=select, into=into, limit_bytes=limit_bytes)

    def snapshot(self, snapshot_id: SnapshotId) -> Snapshot:
        """Return the record of a snapshot, checked.

        Raises:
            NotFound, Damaged, UnknownFormat, LimitExceeded.
        """
        key = layout.snapshot_key(snapshot_id)
        try:
            data = read_document(self.backend, key)
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
        return sorted(self.backend.folders(layout.RUNS))

    def run(self, name: str) -> RunRecord:
        """The record of a run, which may not exist yet. Raises InvalidName."""
        if name not in self._runs:
            self._runs[name] = RunRecord(self.backend, name)
        return self._runs[name]

    def models(self) -> list[str]:
        """The names of the models that have a version, ascending."""
        return [model.name for model in valid_models(self) if model.exists()]

    def model(self, name: str) -> ModelRecord:
        """The record of a model, which may not exist yet. Raises InvalidName."""
        if name not in self._models:
            self._models[name] = ModelRecord(self.backend, name)
        return self._models[name]

    def resolve(self, ref: Ref | str) -> Snapshot:
        """Return the snapshot that a REF names. Raises InvalidRef, NotFound, Damaged."""
        return resolve(self, ref if isinstance(ref, Ref) else Ref.parse(ref))

    def verify(self, on_progress: check.Progress | None = None) -> check.VerifyReport:
        """Read everything and name what is damaged; see `modelkeep.store.check.verify`."""
        return check.verify(self, on_progress)

    def gc(self, *, dry_run: bool = True, grace: float = sweep.GRACE_SECONDS) -> sweep.GcReport:
        """Remove what nothing names; see `modelkeep.store.sweep.gc`."""
        return sweep.gc(self, dry_run=dry_run, grace=grace)

    def shards_of(self, snapshot_id: SnapshotId) -> frozenset[str]:
        """The shards that a snapshot holds pieces in; none for one that is not there. Raises Damaged."""
        if snapshot_id not in self._shards_of:
            key = layout.snapshot_key(snapshot_id)
            try:
                self._shards_of[snapshot_id] = Snapshot.shards_in(read_document(self.backend, key), key)
            except NotFound:
                return frozenset()
        return self._shards_of[snapshot_id]

    def shards_in_use(self) -> set[str]:
        """The shards that any snapshot of the keep holds, by a new listing. Raises Damaged."""
        listed = self.backend.list(layout.SNAPSHOTS)
        present = {layout.snapshot_of(entry.key) for entry in listed if layout.is_known(entry.key)}
        self._shards_of = {one: shards for one, shards in self._shards_of.items() if one in present}
        return {shard for snapshot_id in present for shard in self.shards_of(snapshot_id)}

    def _save(
        self,
        draft: Callable[[AbstractSet[str]], tuple[FlatState, Donor]],
        meta: Mapping[str, Json] | None,
        writer: str,
        avoid: set[str],
        *,
        ours: bool,
    ) -> Snapshot:
        """Save what ``draft`` gives: the state, and pieces that are there already, none in the shards it is given.

        Unless these are ``ours``, of the run that saves, their owner may let them go before our record is seen.
        """
        described = dict(meta or {})
        check_json(described, "meta")
        token = _checked_token(writer or self._token)
        while True:
            before = sentences(self)
            state, pieces = draft(avoid)
            written = write_state(
                self.backend, state, described, name_shard=lambda: self._next_shard(token), donor=pieces
            )
            new = written.shards.keys() - pieces.shards.keys()
            snapshot = self._commit(written, new)
            if not ours:
                self.backend.flush()
            # Only now: a collector that had not seen our record has sentenced its shards before, or deleted them.
            gone = self._going(snapshot.shards.keys(), new & snapshot.shards.keys(), before)
            if not gone and (snapshot is written or not self._goes_by_age(described)):
                return snapshot
            avoid |= gone
            if snapshot is written:
                self.delete_snapshot(snapshot.id)
                delete_shards(self.backend, new)
            else:  # another's record, which is not ours to delete: somebody may count on it
                described = _another_copy(described)

    def _goes_by_age(self, described: Mapping[str, Json]) -> bool:
        """Whether a collection may take a record that was there already before a checkpoint names it.

        It may be old; where there are no locks that is all that tells whether somebody is about to.
        """
        return not self.backend.exclusive_locks and described.get("kind") == "checkpoint"

    def _commit(self, snapshot: Snapshot, new: AbstractSet[str]) -> Snapshot:
        """Make the record durable; ``new``: its new shards. Returns another one when it was there already."""
        key = layout.snapshot_key(snapshot.id)
        try:
            found = self._made_or_found(key, snapshot)
        except (LimitExceeded, StorageError):
            if not self._is_there(key):  # else only its durability is in doubt
                delete_shards(self.backend, new)
            raise
        if found is not snapshot:
            delete_shards(self.backend, new - found.shards.keys())
        self._shards_of[found.id] = frozenset(found.shards)
        return found

    def _made_or_found(self, key: str, snapshot: Snapshot) -> Snapshot:
        """The same state with the same metadata may be there: its record says where its pieces lie."""
        for _ in range(_TRIES):
            try:
                self.backend.create(key, snapshot.to_json())
            except AlreadyExists:
                try:
                    found = self.snapshot(snapshot.id)
                    self.backend.settle(key)  # who made it may have died before it was durable
                except NotFound:
                    continue  # a collection has taken it since
                return found
            return snapshot
        raise StorageError(f"{self.backend.url} has no {key}, and refuses to make it; see `modelkeep doctor`")

    def _going(self, shards: AbstractSet[str], new: AbstractSet[str], before: AbstractSet[Entry]) -> set[str]:
        """Those of the shards that are condemned or gone.

        ``new`` ones too: by a clock that has jumped they look like the garbage of yesterday. A sentence without words
        is one of every shard that was there then, so where it stood ``before`` the new ones they are not meant.
        """
        going: set[str] = set()
        for sentence in sentences(self):  # before the look at what is there: a sentence ends after the deletion
            named = shards_named(self, sentence)
            going |= shards & named if named is not None else shards - (new if sentence in before else set())
        return going | {shard for shard in shards - going if not self._is_there(layout.shard_key(shard))}

    def _is_there(self, key: str) -> bool:
        try:
            self.backend.size(key)
        except NotFound:
            return False
        return True

    def _next_shard(self, token: str) -> str:
        with self._guard:  # a run saves in the background while its keep saves in the foreground
            self._counts[token] = self._counts.get(token, 0) + 1
            return f"{token}-{self._counts[token]}"


def _checked_token(token: str) -> str:
    """``token`` when shards can be named by it: a record with other names would be refused when it is read."""
    if not _TOKEN.fullmatch(token):
        raise UsageError(f"a writer is named by 16 lower-case hexadecimal digits, not {token!r:.60}")
    return token


def _another_copy(meta: Mapping[str, Json]) -> dict[str, Json]:
    """Metadata for the same state once more, under another id."""
    copies = meta.get(_COPY)
    return {**meta, _COPY: copies + 1 if isinstance(copies, int) else 1}


def _create(backend: Backend, *, create: bool) -> bytes:
    """Make an empty place a keep; returns its ``keep.json``, which another process may have been the first to make."""
    there = next(iter(backend.list("", limit=1)), None)
    if there is not None:
        with suppress(NotFound):  # made since it was looked for, by another first opener
            return read_document(backend, layout.KEEP)
    if there is not None and _was_keep(backend):
        raise Damaged(
            f"{backend.url} looks like a keep that has lost its {layout.KEEP}; restore that file from a copy",
            layout.KEEP,
        )
    if there is not None:
        raise UnknownFormat(
            f"{backend.url} is not a keep: it holds {there.key} and no {layout.KEEP}; name an empty or new place"
        )
    if not create:
        raise NotFound(f"there is no keep in {backend.url}; name one that is there, or save something into it first")
    data = seal({"modelkeep": FORMAT, "id": secrets.token_hex(16), "created": backend.now()})
    try:
        backend.create(layout.KEEP, data)
    except AlreadyExists:
        return read_document(backend, layout.KEEP)
    return data


def _was_keep(backend: Backend) -> bool:
    """Whether something lies here as only a keep has it: a folder ``runs`` alone has many an owner."""
    folders = (layout.RUNS, layout.MODELS, layout.SNAPSHOTS, layout.SHARDS)
    return any(layout.is_known(one.key) for folder in folders for one in backend.list(folder, limit=_LOOKED_AT))


def _keep_id(backend: Backend, data: bytes) -> str:
    """The id in the bytes of a ``keep.json``. Raises UnknownFormat, Damaged."""
    try:
        document = unseal(data, layout.KEEP)
    except Damaged as error:
        newer = _newer_format(data)
        if newer is None:
            raise _damaged_keep(backend, str(error) if data else f"{layout.KEEP} is empty") from None
        document = {"modelkeep": newer}
    version = document.get("modelkeep")
    if version != FORMAT or isinstance(version, bool):
        raise UnknownFormat(
            f"{backend.url} is a keep of format {version!r:.40}, and this version of modelkeep reads {FORMAT}; upgrade "
            "it"
        )
    found = document.get("id")
    if not isinstance(found, str):
        raise _damaged_keep(backend, f"{layout.KEEP} holds no id of a keep")
    return found


def _damaged_keep(backend: Backend, fault: str) -> Damaged:
    fault = fault.removesuffix("; restore it from a copy")
    return Damaged(
        f"{backend.url} cannot be opened: {fault}; restore {layout.KEEP} from a copy of the keep; where nothing else "
        "is there yet, delete it",
        layout.KEEP,
    )


def _newer_format(data: bytes) -> int | None:
    """The format number in a ``keep.json`` that is not sealed as format 1 has it, if it is a greater one.

    A later format may be spelled or hashed otherwise. None where but for the number the seal is right: a bit flipped.
    """
    try:
        document = parse_json(data)
    except (Damaged, LimitExceeded):
        return None
    if not isinstance(document, dict):
        return None
    version, wanted = document.get("modelkeep"), document.pop("digest", None)
    if type(version) is not int or version <= FORMAT:
        return None
    return None if wanted == digest(canonical_json({**document, "modelkeep": FORMAT})) else version
