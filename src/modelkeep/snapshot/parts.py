"""The parts of a record, each read with suspicion: tensors, shards and places of pieces."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from modelkeep.errors import Damaged, LimitExceeded, UnknownFormat
from modelkeep.snapshot.dtypes import storage
from modelkeep.values import Digest, Json

MAX_BYTES = 1 << 62
_MAX_AXES = 64  # of numpy
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHARD = re.compile(r"[0-9a-f]{16}-[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One array of a state: logical dtype, shape, rows per piece, and the digests of its pieces in order."""

    dtype: str
    shape: tuple[int, ...]
    piece_rows: int
    pieces: tuple[Digest, ...]

    def to_json(self) -> dict[str, Json]:
        """The spec as it stands in the record."""
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "piece_rows": self.piece_rows,
            "pieces": list(self.pieces),
        }

    @classmethod
    def from_json(cls, path: str, node: Json, key: str) -> "TensorSpec":
        """The spec of tensor ``path`` in the record ``key``.

        Raises:
            Damaged, LimitExceeded: a field that no tensor can have.
            UnknownFormat: a dtype that this version does not know.
        """
        fields = fields_of(node, {"dtype", "shape", "piece_rows", "pieces"}, f"tensor {path}", key)
        dtype, shape, pieces = fields["dtype"], fields["shape"], fields["pieces"]
        if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(pieces, list):
            raise Damaged(f"{key}: tensor {path:.200} has a dtype, shape or pieces that are none", key)
        if len(shape) > _MAX_AXES:
            raise LimitExceeded(f"{key}: tensor {path:.200} has {len(shape)} axes, more than {_MAX_AXES}")
        lengths = tuple(_size(length, f"an axis of tensor {path}", key) for length in shape)
        try:
            itemsize = storage(dtype).itemsize
        except UnknownFormat as error:
            raise UnknownFormat(f"{key}: tensor {path:.200}: {error}") from None
        # numpy refuses empty arrays too when their other axes overflow
        if math.prod(max(1, length) for length in lengths) * itemsize >= MAX_BYTES:
            raise LimitExceeded(f"{key}: tensor {path:.200} of shape {lengths} is larger than any memory")
        rows = _size(fields["piece_rows"], f"piece_rows of tensor {path}", key)
        if rows < 1:
            raise Damaged(f"{key}: tensor {path:.200} has pieces of {rows} rows", key)
        return cls(dtype, lengths, rows, tuple(_digest(item, f"a piece of tensor {path}", key) for item in pieces))


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """A shard's size in bytes and the digest of everything before its data."""

    size: int
    header: Digest

    @classmethod
    def from_json(cls, name: str, node: Json, key: str) -> "ShardInfo":
        """The info of shard ``name`` in the record ``key``.

        Raises:
            Damaged, LimitExceeded: a field that no shard can have.
        """
        # the name becomes part of a file name, so nothing but our own form may pass
        if not _SHARD.fullmatch(name):
            raise Damaged(f"{key}: {name!r:.80} is no shard id", key)
        fields = fields_of(node, {"size", "header"}, f"shard {name}", key)
        return cls(_size(fields["size"], f"shard {name}", key), _digest(fields["header"], f"shard {name}", key))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a piece lies: shard id, key within the shard, bytes."""

    shard: str
    key: str
    nbytes: int

    @classmethod
    def from_json(cls, name: str, node: Json, key: str) -> "Place":
        """The place of piece ``name`` in the record ``key``.

        Raises:
            Damaged, LimitExceeded: a field that no place can have.
        """
        _digest(name, "a piece", key)
        if not isinstance(node, list) or len(node) != 3 or not isinstance(node[0], str) or not isinstance(node[1], str):
            raise Damaged(f"{key}: piece {name} has no [shard, key, bytes]", key)
        return cls(node[0], node[1], _size(node[2], f"piece {name}", key))


def object_of(node: Json, what: str, key: str) -> dict[str, Json]:
    """``node`` when it is a JSON object, else `Damaged`."""
    if not isinstance(node, dict):
        raise Damaged(f"{key}: {what} is no JSON object", key)
    return node


def fields_of(node: Json | Mapping[str, Json], names: set[str], what: str, key: str) -> Mapping[str, Json]:
    """``node`` when it is a JSON object of exactly these fields, else `Damaged`."""
    if not isinstance(node, Mapping) or node.keys() != names:
        raise Damaged(f"{key}: {what:.200} has not exactly the fields {', '.join(sorted(names))}", key)
    return node


def _size(node: Json, what: str, key: str) -> int:
    if type(node) is not int or node < 0:
        raise Damaged(f"{key}: {what:.200} is {node!r:.60}, not a size", key)
    if node >= MAX_BYTES:
        raise LimitExceeded(f"{key}: {what:.200} is {node!r:.60}, more than any memory holds")
    return node


def _digest(node: Json, what: str, key: str) -> Digest:
    if not isinstance(node, str) or not _DIGEST.fullmatch(node):
        raise Damaged(f"{key}: {what:.200} is {node!r:.80}, not a digest", key)
    return Digest(node)
