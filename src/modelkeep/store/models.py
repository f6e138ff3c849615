"""What a named model leaves in the keep: numbered versions, their removals, and aliases.

A version is a small document that names a snapshot. Objects are only ever created: a version's number is one more than
the newest, of publishers at the same moment each gets a number of its own, and what is removed keeps its number.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from modelkeep.backend import Backend
from modelkeep.errors import (
    AlreadyExists,
    Conflict,
    Damaged,
    InvalidName,
    LimitExceeded,
    ModelkeepError,
    NotFound,
    UsageError,
)
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.canonical import check_json
from modelkeep.store import layout
from modelkeep.store.aliases import AliasRecord, Move, is_alias
from modelkeep.store.documents import DAMAGE, OnDamage, key_of, making_sense
from modelkeep.store.exports import Exports
from modelkeep.store.journal import Journal
from modelkeep.store.numbering import LAST_NUMBER
from modelkeep.store.removals import Removals
from modelkeep.store.versions import Parent, Version, version_json, version_of
from modelkeep.values import Json, SnapshotId, check_name


@dataclass(slots=True)
class ModelRecord:
    """One model's objects in a keep.

    >>> from modelkeep.backend import MemoryBackend
    >>> from modelkeep.store import Store
    >>> store = Store.open(MemoryBackend("docs-models"))
    >>> digits = store.model("digits")
    >>> digits.publish(store.save({"weights": [1.0]}, meta={"kind": "model"}), metrics={"accuracy": 0.98}).ref
    'model:digits@1'
    >>> digits.alias("champion", 1).version, digits.aliases()
    (1, {'champion': 1})
    """

    backend: Backend
    name: str
    _removals: Removals = field(init=False, repr=False)
    _named: dict[int, SnapshotId] = field(default_factory=dict, init=False, repr=False)
    """The snapshot of each version that was read once, by number."""

    def __post_init__(self) -> None:
        check_name(self.name, "model")
        self._removals = Removals(self.backend, self.name)

    @property
    def prefix(self) -> str:
        """The key below which everything of the model lies."""
        return layout.model_folder(self.name)

    def exists(self) -> bool:
        """Whether a version was ever published."""
        return self._versions.newest() > 0

    # Versions

    def publish(
        self,
        snapshot: Snapshot,
        *,
        metrics: Mapping[str, float] | None = None,
        parents: Sequence[Version | Parent] = (),
        info: Mapping[str, Json] | None = None,
    ) -> Version:
        """Name a snapshot as the model's next version; durable on return, and the snapshot is too.

        Any number of processes may publish at the same moment; each gets a number of its own.

        Args:
            snapshot: one that is in the keep, of any kind but ``"checkpoint"``.
            metrics: what is known of its quality; NaN and infinities too.
            parents: versions that it grew from, of this model or others; they cannot be removed as long as it is there.
            info: JSON that says what else should be known without opening the snapshot.

        Raises:
            UsageError: a checkpoint, which its run may let go; or what is no JSON.
            NotFound: the snapshot, or a parent, is not there.
            Conflict: the snapshot or a parent was removed at the same moment. The number is lost, nothing else.
        """
        described, measured = dict(info or {}), dict(metrics or {})
        check_json(described, "info")
        if snapshot.meta.get("kind") == "checkpoint":
            raise UsageError(
                f"snapshot {snapshot.short} is a checkpoint, which its run may let go; promote it, and publish what "
                "that gives"
            )
        grown = tuple(one.as_parent() if isinstance(one, Version) else one for one in parents)
        for parent in grown:
            self._check_parent(parent)
        try:
            self.backend.settle(layout.snapshot_key(snapshot.id))  # who made it may have died before it was durable
        except NotFound:
            raise NotFound(
                f"there is no snapshot {snapshot.id} in {self.backend.url}; save it, then publish it"
            ) from None
        version = self._publish(Version(self.name, 0, snapshot.id, 0.0, measured, grown, described))
        self._look_back(version)
        return version

    def versions(self, *, removed: bool = False) -> list[Version]:
        """The versions, newest first; with ``removed=True`` also those that were removed. Raises Damaged."""
        return list(self.iterate_versions(removed=removed))

    def iterate_versions(
        self,
        *,
        removed: bool = False,
        on_damage: OnDamage | None = None,
        damage: tuple[type[ModelkeepError], ...] = DAMAGE,
    ) -> Iterator[Version]:
        """Yield the versions newest first, reading each as it is asked for.

        ``on_damage(key, error)`` is told of a record that cannot be read, which is then left out; without it the error
        is raised. A version whose removal cannot be read comes as if it were there. ``damage``: the errors that are
        told; others are raised.
        """
        gone = self._removals.removed(on_damage=on_damage)
        for number in self._versions.numbers():
            if number in gone and not removed:
                continue
            try:
                version = self._read(number, removed=number in gone)
            except damage as error:
                if on_damage is None:
                    raise
                on_damage(self._versions.key(number), error)
            else:
                yield version

    def version(self, number: int) -> Version:
        """Return a version by its number.

        Raises:
            NotFound: there is none of that number, or it was removed.
            Damaged: its record cannot be read.
        """
        self._check_there(number)
        if self._removals.is_removed(number):
            raise NotFound(f"version {number} of model {self.name} was removed; name another one")
        return self._read(number, removed=False)

    def last(self) -> Version | None:
        """The newest version; None when there is none. Nothing stands in for a damaged one: raises Damaged."""
        number = next((one for one in self._versions.numbers() if not self._removals.is_removed(one)), None)
        return self._read(number, removed=False) if number is not None else None

    def remove(self, number: int) -> None:
        """Remove a version: it is no longer found, and its snapshot may go. Its number and its record stay.

        Durable on return. One that was removed before is fine.

        Raises:
            Conflict: an alias points at it, or a version has it as a parent, which are named; or another process has
                come to need it, or removes it, at the same moment. Nothing was removed.
            NotFound: there never was such a version.
            Damaged: a record cannot be read: it could need any version, so nothing was removed.
        """
        self._check_there(number)
        begun = self._removals.begin(number)
        if not begun:
            return
        try:
            users = [f"alias {name}" for name in self.alias_names() if self._alias(name).held() == number]
            users += self._children(number)
        except ModelkeepError:
            self._removals.end(number, begun, removed=False)
            raise
        if users:
            self._removals.end(number, begun, removed=False)
            raise Conflict(
                f"version {number} of model {self.name} is needed by {', '.join(users[:8])}"
                f"{f' and {len(users) - 8} more' if len(users) > 8 else ''}; move the alias, or remove those first"
            )
        if not self._removals.end(number, begun, removed=True):
            raise Conflict(
                f"version {number} of model {self.name} was named or removed by another process at the same moment; "
                "look what needs it, and remove it again"
            )

    def exports(self, number: int) -> Exports:
        """What a version was exported to."""
        return Exports(self.backend, self.name, number)

    # Aliases

    def alias(self, name: str, version: int | None, *, expect: int | None = None, reason: str = "") -> Move | None:
        """Let an alias point at a version, an earlier one too, or with None nowhere. Durable on return.

        Args:
            name: a word that is no version; it need not be there yet.
            version: the number of a version that is there.
            expect: where the alias must be now: a number, or 0 for nowhere. Of those who expect the same one succeeds.
            reason: why, for the history.

        Returns: the move that counts now; no new one when the alias was there already. None for one that never was.

        Raises:
            Conflict: the alias is not where it was expected, or the version was removed at the same moment; it was not
                moved.
            NotFound: there is no such version.
            InvalidName: the name would be taken for a version.
            Damaged: ``expect`` was given, and where the alias is cannot be read.
        """
        alias = self._alias(name)
        if version is None:
            return alias.move(None, expect=expect, reason=reason)
        target = self.version(version)
        self._versions.settle(version)  # who published it may have died before it was durable
        return alias.move((version, target.snapshot_id), expect=expect, reason=reason)

    def aliases(self, *, on_damage: OnDamage | None = None) -> dict[str, int]:
        """The versions that aliases point at, by their names; those that point nowhere are left out.

        ``on_damage(key, error)`` is told of an alias that cannot be read; without it the error is raised.
        """
        found: dict[str, int] = {}
        for name in self.alias_names():
            alias = self._alias(name)
            try:
                move = alias.current()
            except DAMAGE as error:
                if on_damage is None:
                    raise
                on_damage(key_of(error, alias.journal.folder), error)
            else:
                if move is not None and move.version is not None:
                    found[name] = move.version
        return found

    def alias_names(self) -> Iterator[str]:
        """The aliases that ever were; a folder whose name no alias can have is somebody else's."""
        yield from filter(is_alias, self.backend.folders(layout.aliases_folder(self.name)))

    def aliased(self, name: str) -> Version | None:
        """The version that an alias points at; None where it points nowhere, or is none.

        Raises:
            Damaged: the move, or the version, cannot be read; or it is not the version that the alias was moved to.
        """
        alias = self._alias(name)
        move = alias.current()
        if move is None or move.version is None:
            return None
        key = self._versions.key(move.version)
        try:
            version = self._read(move.version, removed=False)
        except NotFound:
            raise Damaged(f"{key} is gone, and alias {name} points at it; restore it from a copy", key) from None
        if version.snapshot_id != move.snapshot_id:
            raise Damaged(f"{key} is not the version that alias {name} was moved to; restore it from a copy", key)
        return version

    def history(self, name: str, *, on_damage: OnDamage | None = None) -> list[Move]:
        """All moves of an alias, newest first; none for one that never was. See `AliasRecord.history`."""
        return self._alias(name).history(on_damage=on_damage)

    # For the sweep

    def named_snapshots(self) -> set[SnapshotId]:
        """The snapshots of the versions that were not removed, and of their exports. Raises Damaged."""
        there = set(self._versions.numbers()) - self._removals.removed()
        exported = {export.snapshot_id for number in there for export in self.exports(number).all()}
        return {*self._snapshots(there).values(), *exported}

    def settle_removals(self, snapshots: set[SnapshotId]) -> None:
        """Make durable the removals of versions with these snapshots: who removed them may have died before."""
        for number in self._removals.removed() if snapshots else ():
            try:
                settling = self._snapshots({number})[number] in snapshots
            except (NotFound, Damaged, LimitExceeded):
                settling = True  # it may have had one of them
            if settling:
                self._removals.settle(number)

    # How it lies in the keep

    @property
    def _versions(self) -> Journal:
        return Journal(self.backend, layout.versions_folder(self.name), "the record of a version")

    def _alias(self, name: str) -> AliasRecord:
        return AliasRecord(self.backend, self.name, name, self._removals)

    def _check_there(self, number: int) -> None:
        try:
            if not 0 < number < LAST_NUMBER:
                raise NotFound("a number that no version has")
            self.backend.size(self._versions.key(number))
        except NotFound:
            newest = self._versions.newest()
            raise NotFound(
                f"there is no version {number} of model {self.name} in {self.backend.url}; "
                f"{f'the newest is {newest}' if newest else 'nothing was published yet'}"
            ) from None
        except Damaged:  # it is no file any more, and it was one once
            return

    def _check_parent(self, parent: Parent) -> None:
        """A parent is there, is the one that is meant, and durable."""
        record = ModelRecord(self.backend, parent.model)
        if record.version(parent.number).snapshot_id != parent.snapshot_id:
            raise NotFound(f"version {parent.number} of model {parent.model} has another snapshot than was given")
        record._versions.settle(parent.number)

    def _publish(self, draft: Version) -> Version:
        """Create the version under the next number that is free."""
        number = 0
        while True:
            number = max(number, self._versions.newest()) + 1
            version = Version(
                self.name, number, draft.snapshot_id, self.backend.now(), draft.metrics, draft.parents, draft.info
            )
            try:
                self._versions.append(number, version_json(version))
            except AlreadyExists:
                continue
            self._named[number] = version.snapshot_id
            return version

    def _look_back(self, version: Version) -> None:
        """What the version needs is still there; who takes it away after this look has seen the version."""
        lost = (one for one in version.parents if not Removals(self.backend, one.model).hold(one.number))
        gone = [f"version {one.number} of model {one.model}" for one in lost]
        if is_going(self.backend, version.snapshot_id):
            gone.append(f"snapshot {version.snapshot_id[:8]}")
        if gone:
            with suppress(Conflict, Damaged):  # somebody has named it already, or may have
                self.remove(version.number)
            raise Conflict(
                f"{gone[0]} was removed at the same moment: version {version.number} of model {self.name} was "
                "withdrawn; save and publish it again"
            )

    def _children(self, number: int) -> list[str]:
        """The versions of all models that have version ``number`` as a parent."""
        found = []
        for record in models_on(self.backend):
            found += [
                one.ref
                for one in record.iterate_versions()
                if any((parent.model, parent.number) == (self.name, number) for parent in one.parents)
            ]
        return sorted(found)

    def _snapshots(self, numbers: set[int]) -> dict[int, SnapshotId]:
        for number in numbers - self._named.keys():
            self._named[number] = self._read(number, removed=False).snapshot_id
        return {number: self._named[number] for number in numbers}

    def _read(self, number: int, *, removed: bool) -> Version:
        document = self._versions.read(number)
        with making_sense(self._versions.key(number), self._versions.what):
            return version_of(document, self.name, removed=removed)


def models_on(backend: Backend) -> Iterator[ModelRecord]:
    """The models of a keep; a folder whose name no model can have is somebody else's."""
    for name in backend.folders(layout.MODELS):
        with suppress(InvalidName):
            yield ModelRecord(backend, name)


def is_going(backend: Backend, snapshot: SnapshotId) -> bool:
    """Whether the record of a snapshot is condemned, or gone; looked at in that order, as a sentence ends last."""
    try:
        backend.size(layout.condemned_snapshot_key(snapshot))
    except NotFound:
        try:
            backend.size(layout.snapshot_key(snapshot))
        except NotFound:
            return True
        return False
    return True
