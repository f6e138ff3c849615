"""A folder of numbered documents of which the newest counts: what a keep has in place of a file that changes.

Of any number of processes that append at the same moment one gets the number, and the others are told. Who has appended
behind document n knows thereby that nothing came between: it is compare-and-swap by create-if-absent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelkeep.backend import Backend
from modelkeep.errors import LimitExceeded
from modelkeep.snapshot.canonical import DOCUMENT_BYTES, seal, unseal
from modelkeep.store.documents import making_sense, must_be, numbers_in, read_document
from modelkeep.store.numbering import newest_first
from modelkeep.values import Json


@dataclass(frozen=True, slots=True)
class Journal:
    """The documents in one folder, from number 1 on.

    >>> from modelkeep.backend import MemoryBackend
    >>> journal = Journal(MemoryBackend("docs-journal"), "models/digits/aliases/champion", "the move of an alias")
    >>> journal.append(1, {"version": 3})
    >>> journal.newest(), journal.read(1)["version"]
    (1, 3)
    """

    backend: Backend
    folder: str
    what: str
    """What a document is, for messages."""

    def key(self, number: int) -> str:
        """Where document ``number`` lies."""
        return f"{self.folder}/{newest_first(number)}.json"

    def numbers(self) -> Iterator[int]:
        """The numbers that are there, newest first."""
        return numbers_in(self.backend, self.folder)

    def newest(self) -> int:
        """The greatest number, 0 when there is none; the rest is not listed where the storage lists by pages."""
        return next(self.numbers(), 0)

    def read(self, number: int) -> dict[str, Json]:
        """Return a document, every byte checked. Raises NotFound, Damaged, LimitExceeded."""
        key = self.key(number)
        document = unseal(read_document(self.backend, key), key)
        with making_sense(key, self.what):
            must_be(number, document["number"])
        return document

    def append(self, number: int, document: Mapping[str, Json]) -> None:
        """Create document ``number``; durable on return.

        Raises:
            AlreadyExists: another process was first.
            LimitExceeded: it would be too long to be read again.
        """
        data = seal({**document, "number": number})
        if len(data) > DOCUMENT_BYTES:
            raise LimitExceeded(
                f"{self.what} would have {len(data):,} bytes of JSON, and {DOCUMENT_BYTES:,} can be read again; keep "
                "what is large in the state of the snapshot"
            )
        self.backend.create(self.key(number), data)

    def settle(self, number: int) -> None:
        """Make a document durable that is there: who created it may have died before it was, and we count on it."""
        self.backend.settle(self.key(number))
