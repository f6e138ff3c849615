"""The removal of a version, decided once: either something needs it, or it is gone.

Two looks alone would leave a gap: an alias is moved to a version just after the remover has looked at all aliases. So a
removal is begun, then it is looked what needs the version, and then it is ended; each step is the next document of one
journal. Whoever makes something that needs the version looks at the journal *after* that is durable, and ends a removal
that is under way as "kept". Only one of the two gets the number. A removal whose process died is ended in the same way.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from modelkeep.backend import Backend
from modelkeep.errors import AlreadyExists
from modelkeep.store import layout
from modelkeep.store.documents import DAMAGE, OnDamage, key_of, making_sense
from modelkeep.store.journal import Journal
from modelkeep.store.numbering import newest_first, number_of
from modelkeep.values import Json

_BEGUN, _KEPT, _REMOVED = "begun", "kept", "removed"


@dataclass(slots=True)
class Removals:
    """Which versions of a model are removed.

    >>> from modelkeep.backend import MemoryBackend
    >>> removals = Removals(MemoryBackend("docs-removals"), "digits")
    >>> removals.hold(3), removals.end(3, removals.begin(3), removed=True), removals.hold(3)
    (True, True, False)
    """

    backend: Backend
    model: str
    _gone: set[int] = field(default_factory=set, init=False, repr=False)
    """Versions that are known to be removed: that never changes."""

    def removed(self, *, on_damage: OnDamage | None = None) -> set[int]:
        """The numbers of the versions that are removed.

        ``on_damage(key, error)`` is told of a removal that cannot be read, whose version then comes as if it were
        there; without it the error is raised.
        """
        for number in self._touched():
            try:
                self.is_removed(number)
            except DAMAGE as error:
                if on_damage is None:
                    raise
                on_damage(key_of(error, self._journal(number).folder), error)
        return set(self._gone)

    def is_removed(self, number: int) -> bool:
        """Whether version ``number`` is removed. Raises Damaged."""
        return number in self._gone or self._step(number)[1] == _REMOVED

    def begin(self, number: int) -> int:
        """Begin a removal: from here on nobody comes to need the version unseen. Durable on return.

        Returns: what `end` is given; 0 when the version is removed already, durably.
        """
        while True:
            newest, step = self._step(number)
            if step == _REMOVED:
                self.settle(number)
                return 0
            try:
                self._append(number, newest + 1, _BEGUN)
                return newest + 1
            except AlreadyExists:
                continue

    def end(self, number: int, begun: int, *, removed: bool) -> bool:
        """End a removal that was begun; durable on return. False when another process has ended it before."""
        try:
            self._append(number, begun + 1, _REMOVED if removed else _KEPT)
        except AlreadyExists:
            return False
        return True

    def hold(self, number: int) -> bool:
        """End a removal that is under way, after something that needs the version was made durable.

        Returns: whether the version stays; when it does not, that is durable: somebody is refused because of it.

        Raises:
            Damaged: a step cannot be read.
        """
        while True:
            newest, step = self._step(number)
            if step == _REMOVED:
                self._journal(number).settle(newest)
                return False
            if step == _KEPT or self.end(number, newest, removed=False):
                return True

    def settle(self, number: int) -> None:
        """Make the end of a removal durable; nothing where none was begun."""
        journal = self._journal(number)
        newest = journal.newest()
        if newest:
            journal.settle(newest)

    def _touched(self) -> Iterator[int]:
        numbers = (number_of(name) for name in self.backend.folders(layout.removals_folder(self.model)))
        return (number for number in numbers if number is not None)

    def _step(self, number: int) -> tuple[int, Json]:
        """The number and the word of the newest step; no step is as good as one that kept it."""
        journal = self._journal(number)
        newest = journal.newest()
        if not newest:
            return 0, _KEPT
        document = journal.read(newest)
        with making_sense(journal.key(newest), journal.what):
            if (document["model"], document["version"]) != (self.model, number):
                raise TypeError("it is of another version")
            if document["step"] not in (_BEGUN, _KEPT, _REMOVED):
                raise TypeError(f"{document['step']!r:.40} is no step of a removal")
        if document["step"] == _REMOVED:
            self._gone.add(number)
        return newest, document["step"]

    def _append(self, number: int, step_number: int, step: str) -> None:
        document: dict[str, Json] = {
            "model": self.model,
            "version": number,
            "step": step,
            "time": self.backend.now(),
        }
        self._journal(number).append(step_number, document)
        if step == _REMOVED:
            self._gone.add(number)

    def _journal(self, number: int) -> Journal:
        folder = f"{layout.removals_folder(self.model)}/{newest_first(number)}"
        return Journal(self.backend, folder, "a step of a removal")
