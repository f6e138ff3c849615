"""The aliases of a model: each a journal of moves, of which the newest counts and the rest is the history.

A move to a version that was removed does not count: it was made while the removal was under way, and was refused.
"""

import re
from dataclasses import dataclass

from modelkeep.backend import Backend
from modelkeep.errors import AlreadyExists, Conflict, InvalidName
from modelkeep.store import layout
from modelkeep.store.documents import DAMAGE, OnDamage, float_of, int_of, making_sense, snapshot_id_of
from modelkeep.store.journal import Journal
from modelkeep.store.removals import Removals
from modelkeep.values import Json, SnapshotId, check_name

_TAKEN = re.compile(r"v?[0-9]+|last|latest|best", re.IGNORECASE)
"""What a revision means otherwise, or would be taken for."""


def check_alias(name: str) -> str:
    """Return ``name`` when it can name an alias. Raises InvalidName.

    >>> check_alias("champion")
    'champion'
    """
    if _TAKEN.fullmatch(check_name(name, "alias")):
        raise InvalidName(
            f"alias name {name!r:.60} would be taken for a version; use a word other than last, latest and best, such "
            "as 'champion'"
        )
    return name


def is_alias(name: str) -> bool:
    """Whether ``name`` can name an alias."""
    try:
        check_alias(name)
    except InvalidName:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Move:
    """One move of an alias."""

    alias: str
    number: int
    """From 1, in the order of the moves."""
    version: int | None
    """Where the alias points from here on; None for nowhere: it was removed."""
    snapshot_id: SnapshotId | None
    """The snapshot of that version."""
    time: float
    """Seconds since the epoch, by the store's clock."""
    reason: str


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """One alias of a model."""

    backend: Backend
    model: str
    name: str
    removals: Removals

    def __post_init__(self) -> None:
        check_alias(self.name)

    @property
    def journal(self) -> Journal:
        """Its moves."""
        return Journal(self.backend, f"{layout.aliases_folder(self.model)}/{self.name}", "the move of an alias")

    def history(self, *, on_damage: OnDamage | None = None) -> list[Move]:
        """All moves, the newest one first.

        ``on_damage(key, error)`` is told of one that cannot be read, which is then left out; without it the error is
        raised.
        """
        found = []
        for number in self.journal.numbers():
            try:
                found.append(self._read(number))
            except DAMAGE as error:
                if on_damage is None:
                    raise
                on_damage(self.journal.key(number), error)
        return found

    def current(self) -> Move | None:
        """The move that counts; None when there is none, or it leads nowhere. Raises Damaged."""
        move = self._counting(self.journal.newest(), hold=False)
        return move if move is not None and move.version is not None else None

    def held(self) -> int:
        """The version that the alias points at, which is then certain to stay; 0 for none. Raises Damaged."""
        move = self._counting(self.journal.newest(), hold=True)
        return (move.version or 0) if move is not None else 0

    def move(self, to: tuple[int, SnapshotId] | None, *, expect: int | None, reason: str) -> Move | None:
        """Point at a version that is there, or nowhere; durable on return. See `ModelRecord.alias`.

        Returns: the move; None where the alias was nowhere already and should be.
        """
        version, snapshot_id = to or (None, None)
        while True:
            newest = self.journal.newest()
            at, standing = self._standing(newest, expect)
            if expect is not None and at != expect:
                raise Conflict(
                    f"alias {self.name} of model {self.model} is {_where(at)}, not {_where(expect)}: it was not moved; "
                    "look at its history, and expect where it is"
                )
            if newest:
                self.journal.settle(newest)  # we go on from it
            if at == (version or 0):
                if standing is not None:
                    self.journal.settle(standing.number)
                return standing
            move = Move(self.name, newest + 1, version, snapshot_id, self.backend.now(), reason)
            try:
                self.journal.append(newest + 1, self._json_of(move))
            except AlreadyExists:
                continue
            if version is not None and not self.removals.hold(version):
                raise Conflict(
                    f"version {version} of model {self.model} was removed at the same moment: alias {self.name} was "
                    "not moved; name another version"
                )
            return move

    def _standing(self, newest: int, expect: int | None) -> tuple[int, Move | None]:
        """Where the alias is, 0 for nowhere, and by which move.

        -1 where that is damaged: who expects nothing may move it all the same, which mends it.
        """
        try:
            move = self._counting(newest, hold=True)
        except DAMAGE:
            if expect is not None:
                raise
            return -1, None
        return (move.version or 0) if move is not None else 0, move

    def _counting(self, newest: int, *, hold: bool) -> Move | None:
        """The newest move, from number ``newest`` back, that leads nowhere or to a version that is there.

        With ``hold`` a removal of that version that is under way ends now: else a move could count that soon does not.
        """
        for number in self.journal.numbers():
            if number > newest:
                continue
            move = self._read(number)
            if move.version is None:
                return move
            if self.removals.hold(move.version) if hold else not self.removals.is_removed(move.version):
                return move
        return None

    def _read(self, number: int) -> Move:
        document = self.journal.read(number)
        with making_sense(self.journal.key(number), self.journal.what):
            if (document["model"], document["alias"]) != (self.model, self.name):
                raise TypeError("it is of another alias")
            version, snapshot = document["version"], document["snapshot"]
            if (version is None) != (snapshot is None):
                raise TypeError("it has only one of version and snapshot")
            return Move(
                alias=self.name,
                number=number,
                version=None if version is None else int_of(version),
                snapshot_id=None if snapshot is None else snapshot_id_of(snapshot),
                time=float_of(document["time"]),
                reason=str(document["reason"]),
            )

    def _json_of(self, move: Move) -> dict[str, Json]:
        return {
            "model": self.model,
            "alias": self.name,
            "version": move.version,
            "snapshot": move.snapshot_id,
            "time": move.time,
            "reason": move.reason,
        }


def _where(version: int) -> str:
    return f"at version {version}" if version else "nowhere"
