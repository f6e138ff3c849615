"""The record of a snapshot: what a state was, and where its pieces were first put."""

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelkeep.errors import Damaged, LimitExceeded, UnknownFormat
from modelkeep.snapshot.canonical import DOCUMENT_BYTES, MAX_CONTAINERS, canonical_json, seal, unseal
from modelkeep.snapshot.dtypes import TEXTS, storage
from modelkeep.snapshot.parts import Place, ShardInfo, TensorSpec, fields_of, object_of
from modelkeep.snapshot.pieces import Grid, digest, grid
from modelkeep.state.tree import tensor_paths
from modelkeep.values import Digest, Json, SnapshotId

FORMAT = 1
RECORD_BYTES = DOCUMENT_BYTES
RECORD_DEPTH = 256
"""JSON depth of a record: 64 containers of a state take up to 3 levels each."""


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """An immutable record of one state.

    ``id`` is the digest of the logical part (structure, tensors, meta), so it does not depend on where pieces lie.
    """

    id: SnapshotId
    structure: Json
    tensors: Mapping[str, TensorSpec]
    meta: Mapping[str, Json]
    shards: Mapping[str, ShardInfo]
    places: Mapping[Digest, Place]

    @classmethod
    def of(
        cls,
        structure: Json,
        tensors: Mapping[str, TensorSpec],
        meta: Mapping[str, Json],
        shards: Mapping[str, ShardInfo],
        places: Mapping[Digest, Place],
    ) -> "Snapshot":
        """A snapshot of these parts, with its id.

        >>> Snapshot.of({"epoch": 3}, {}, {"step": 10}, {}, {}).short
        '1c2f2996'
        """
        digits = digest(canonical_json(_logical(structure, tensors, meta)))
        return cls(SnapshotId(digits), structure, tensors, meta, shards, places)

    @property
    def short(self) -> str:
        """The first 8 digits of the id."""
        return self.id[:8]

    @property
    def state_digest(self) -> Digest:
        """The digest of structure and tensors alone: equal states have equal ones, whenever they were saved."""
        return digest(canonical_json(_state(self.structure, self.tensors)))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays when loaded; object arrays count as the bytes of their items and offsets."""
        return sum(self.grid(path).nbytes for path in self.tensors)

    def grid(self, path: str) -> Grid:
        """How the tensor at ``path`` is cut; that of an object array is the grid of its byte stream."""
        spec = self.tensors[path]
        if spec.dtype in TEXTS:
            nbytes = sum(self.places[piece].nbytes for piece in spec.pieces)
            return Grid(nbytes, (), 1, spec.piece_rows)
        return grid(spec.shape, storage(spec.dtype).itemsize, spec.piece_rows)

    def to_json(self) -> bytes:
        """The record as it is stored: canonical JSON, sealed with its digest.

        Raises:
            LimitExceeded: the record would be too large to be read again; keep large texts as arrays.
        """
        data = seal(
            {
                "modelkeep": FORMAT,
                "id": self.id,
                "logical": _logical(self.structure, self.tensors, self.meta),
                "shards": {name: {"size": info.size, "header": info.header} for name, info in self.shards.items()},
                "pieces": {name: [place.shard, place.key, place.nbytes] for name, place in self.places.items()},
            }
        )
        if len(data) > RECORD_BYTES or data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
            raise LimitExceeded(
                f"the record of this state has {len(data)} bytes of JSON, more than can be read again; keep large "
                "texts and lists of numbers as arrays"
            )
        return data

    @staticmethod
    def shards_in(data: bytes, key: str) -> frozenset[str]:
        """The names of the shards in a record of which nothing else is wanted. Every byte is checked, no number is.

        Raises:
            Damaged, UnknownFormat, LimitExceeded: as `from_json`.
        """
        document = unseal(data, key, limit_bytes=RECORD_BYTES, max_depth=RECORD_DEPTH)
        _check_version(document, key)
        return frozenset(object_of(document.get("shards"), "shards", key))

    @classmethod
    def from_json(cls, data: bytes, key: str = "", *, limit_bytes: int = RECORD_BYTES) -> "Snapshot":
        """Read a record. Every byte and every number is checked; nothing of the size that it names is allocated.

        Raises:
            Damaged: naming ``key`` and what is wrong.
            UnknownFormat: a newer format, dtype or node.
            LimitExceeded: more JSON than ``limit_bytes``, or tensors larger than any memory.
        """
        key = key or "record"
        document = unseal(data, key, limit_bytes=limit_bytes, max_depth=RECORD_DEPTH)
        _check_version(document, key)
        fields_of(document, {"modelkeep", "id", "logical", "shards", "pieces"}, "the record", key)
        logical = fields_of(document["logical"], {"tree", "tensors", "meta"}, "logical", key)
        tensors = object_of(logical["tensors"], "tensors", key).items()
        shards = object_of(document["shards"], "shards", key).items()
        places = object_of(document["pieces"], "pieces", key).items()
        snapshot = cls.of(
            logical["tree"],
            {path: TensorSpec.from_json(path, node, key) for path, node in tensors},
            object_of(logical["meta"], "meta", key),
            {name: ShardInfo.from_json(name, node, key) for name, node in shards},
            {Digest(name): Place.from_json(name, node, key) for name, node in places},
        )
        if snapshot.id != document["id"]:
            raise Damaged(
                f"{key}: the content has the id {snapshot.short}…, the record says {document['id']!r:.20}", key
            )
        _check_paths(snapshot, key)
        _check_places(snapshot, key)
        for path in snapshot.tensors:
            _check_pieces(snapshot, path, key)
        return snapshot

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Snapshot({self.short}…, {len(self.tensors)} tensors, {shown_bytes(self.nbytes)})"

    def _repr_html_(self) -> str:
        """A table for notebooks: metadata, then the first tensors; all text is escaped."""
        rows = [(name, _html_of(value)) for name, value in sorted(self.meta.items())]
        for path in list(self.tensors)[:20]:
            spec = self.tensors[path]
            about = f"{spec.dtype} {list(spec.shape)}, {shown_bytes(self.grid(path).nbytes)}"
            rows.append((path, html.escape(about)))
        if len(self.tensors) > 20:
            rows.append(("…", _counted(len(self.tensors) - 20, "more tensor")))
        title = f"snapshot {self.short}…: {_counted(len(self.tensors), 'tensor')}, {shown_bytes(self.nbytes)}"
        return f"<table><caption>{title}</caption>{_html_rows(rows)}</table>"


def _html_of(value: Json) -> str:
    """JSON in a cell of a table, escaped: one line where it is short, else a list of entries that can be unfolded."""
    if isinstance(value, dict) and "$" not in value and not all(map(_is_plain, value.values())):
        rows = _html_rows([(name, _html_of(item)) for name, item in sorted(value.items())])
        return f"<details><summary>{_counted(len(value), 'entry')}</summary><table>{rows}</table></details>"
    if isinstance(value, dict) and "$" not in value:
        text = ", ".join(f"{name} {_text_of(item)}" for name, item in sorted(value.items())) or "none"
    elif isinstance(value, list) and all(map(_is_plain, value)):
        text = ", ".join(map(_text_of, value)) or "none"
    else:
        text = _text_of(value)
    return html.escape(text if len(text) <= 200 else f"{text[:199]}…")


def _is_plain(value: Json) -> bool:
    return not isinstance(value, dict | list) or (isinstance(value, dict) and "$" in value)


def _text_of(value: Json) -> str:
    """JSON in words: text without its quotes, and the value of a ``{"$": kind, "value": …}`` node."""
    if isinstance(value, dict) and "$" in value:
        value = value.get("value")
    return value if isinstance(value, str) and value else canonical_json(value).decode()


def _html_rows(rows: list[tuple[str, str]]) -> str:
    """Rows of a table: names, which are escaped here, and cells, which are already."""
    return "".join(f"<tr><td>{html.escape(name)}</td><td>{cell}</td></tr>" for name, cell in rows)


def _counted(count: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def _check_version(document: Mapping[str, Json], key: str) -> None:
    version = document.get("modelkeep")
    if version != FORMAT or isinstance(version, bool):
        raise UnknownFormat(f"{key}: the format is {version!r:.40}, this version reads {FORMAT}; upgrade modelkeep")


def _state(structure: Json, tensors: Mapping[str, TensorSpec]) -> dict[str, Any]:
    return {"tree": structure, "tensors": {path: spec.to_json() for path, spec in tensors.items()}}


def _logical(structure: Json, tensors: Mapping[str, TensorSpec], meta: Mapping[str, Json]) -> dict[str, Any]:
    return {**_state(structure, tensors), "meta": dict(meta)}


def shown_bytes(count: int) -> str:
    """A number of bytes as people read it.

    >>> shown_bytes(999), shown_bytes(3_450_000)
    ('999 B', '3.5 MB')
    """
    if count < 1000:
        return f"{count} B"
    power = min(6, int(math.log10(count)) // 3)
    return f"{count / 1000**power:.1f} {'kMGTPE'[power - 1]}B"


def _check_paths(snapshot: Snapshot, key: str) -> None:
    """The tree and the list of tensors name the same paths, each once."""
    paths = tensor_paths(snapshot.structure)
    missing = sorted(snapshot.tensors.keys() ^ set(paths))
    if missing:
        raise Damaged(f"{key}: {missing[0]:.200} stands in the tree or among the tensors, but not in both", key)


def _check_places(snapshot: Snapshot, key: str) -> None:
    """Every piece lies in a shard that is listed and long enough, and nothing else is listed."""
    used = {piece for spec in snapshot.tensors.values() for piece in spec.pieces}
    if used != snapshot.places.keys():
        piece = min(used ^ snapshot.places.keys())
        raise Damaged(f"{key}: piece {piece} is used by a tensor or has a place, but not both", key)
    totals = dict.fromkeys(snapshot.shards, 0)
    for piece, place in snapshot.places.items():
        if place.shard not in totals:
            raise Damaged(f"{key}: piece {piece} lies in shard {place.shard:.80}, which is not listed", key)
        totals[place.shard] += place.nbytes
    for name, total in totals.items():
        if not 0 < total < snapshot.shards[name].size:
            size = snapshot.shards[name].size
            raise Damaged(f"{key}: shard {name} of {size} bytes is said to hold {total} bytes of pieces", key)


def _check_pieces(snapshot: Snapshot, path: str, key: str) -> None:
    """A tensor has as many pieces as its shape asks for, each as long as its rows."""
    spec = snapshot.tensors[path]
    sizes = [snapshot.places[piece].nbytes for piece in spec.pieces]
    if spec.dtype in TEXTS:
        lines = snapshot.grid(path)
        count = math.prod(spec.shape)
        if lines.nbytes < count * 8 or (lines.nbytes and not count):
            raise Damaged(f"{key}: tensor {path:.200} has {lines.nbytes} bytes for {count} texts", key)
    else:
        lines = grid(spec.shape, storage(spec.dtype).itemsize, spec.piece_rows)
    if len(sizes) != lines.count:
        raise Damaged(f"{key}: tensor {path:.200} has {len(sizes)} pieces, its shape asks for {lines.count}", key)
    for index, size in enumerate(sizes):
        first, past = lines.span(index)
        if size != past - first:
            raise Damaged(f"{key}: piece {index} of tensor {path:.200} has {size} bytes, not {past - first}", key)
