"""The exports of a version: what it was turned into, each a snapshot of its files with the proof of its answers.

They are named in a journal beside the version, and are garbage once it is removed. Making one again adds a line; of
those with the same format and options the newest counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelkeep.backend import Backend
from modelkeep.errors import AlreadyExists
from modelkeep.snapshot.canonical import canonical_json
from modelkeep.store import layout
from modelkeep.store.documents import float_of, making_sense, mapping_of, snapshot_id_of
from modelkeep.store.journal import Journal
from modelkeep.values import Json, SnapshotId


@dataclass(frozen=True, slots=True)
class Export:
    """One export of a version."""

    format: str
    options: Mapping[str, Json]
    """What was asked for beside the format."""
    snapshot_id: SnapshotId
    """A state with ``files``, by their paths, and ``proof``."""
    time: float = field(compare=False)
    """When it was made: seconds since the epoch, by the store's clock."""


@dataclass(frozen=True, slots=True)
class Exports:
    """The exports of one version of a model.

    >>> from modelkeep.backend import MemoryBackend
    >>> exports = Exports(MemoryBackend("docs-exports"), "digits", 1)
    >>> exports.add("onnx", {"opset": 15}, SnapshotId("0" * 64)).format
    'onnx'
    >>> [one.format for one in exports.all()], exports.find("onnx", {"opset": 17})
    (['onnx'], None)
    """

    backend: Backend
    model: str
    version: int

    def add(self, format_name: str, options: Mapping[str, Json], snapshot: SnapshotId) -> Export:
        """Name a snapshot that was just saved as an export; durable on return."""
        export = Export(format_name, dict(options), snapshot, self.backend.now())
        document: dict[str, Json] = {
            "format": format_name, "options": dict(options), "snapshot": snapshot, "time": export.time,
        }  # fmt: skip
        while True:
            try:
                self._journal.append(self._journal.newest() + 1, document)
            except AlreadyExists:
                continue
            return export

    def all(self) -> list[Export]:
        """The exports that count, newest first. Raises Damaged."""
        found: dict[bytes, Export] = {}
        for number in self._journal.numbers():
            export = self._read(number)
            found.setdefault(canonical_json([export.format, dict(export.options)]), export)
        return list(found.values())

    def find(self, format_name: str, options: Mapping[str, Json]) -> Export | None:
        """The newest of a format with just these options. Raises Damaged."""
        wanted = (format_name, dict(options))
        return next((one for one in self.all() if (one.format, dict(one.options)) == wanted), None)

    @property
    def _journal(self) -> Journal:
        return Journal(self.backend, layout.exports_folder(self.model, self.version), "the record of an export")

    def _read(self, number: int) -> Export:
        document = self._journal.read(number)
        with making_sense(self._journal.key(number), self._journal.what):
            return Export(
                str(document["format"]),
                mapping_of(document["options"]),
                snapshot_id_of(document["snapshot"]),
                float_of(document["time"]),
            )
