"""A state from the storage: every byte is read once, into its place, and compared with its digest."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.backend import Backend
from modelkeep.errors import Damaged, LimitExceeded, NotFound
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.dtypes import TEXTS, numpy_dtype
from modelkeep.snapshot.pieces import digest
from modelkeep.snapshot.record import shown_bytes
from modelkeep.snapshot.safetensors import Header, parse_header
from modelkeep.snapshot.texts import decode_texts
from modelkeep.state.tree import select as select_paths
from modelkeep.state.tree import tensor_paths, unflatten
from modelkeep.store import layout
from modelkeep.values import Digest


def read_state(
    backend: Backend, snapshot: Snapshot, *, select: Sequence[str] | None = None, limit_bytes: int | None = None
) -> Any:
    """Return the state of ``snapshot``, or the part of it whose paths match the patterns ``select``.

    Raises:
        Damaged: bytes are missing or are not those that were written; every damaged tensor is named.
        LimitExceeded: the arrays have more than ``limit_bytes`` bytes; nothing was allocated.
        NotFound: a pattern that no path matches.
    """
    structure = snapshot.structure if select is None else select_paths(snapshot.structure, select)
    paths = tensor_paths(structure)
    wanted = sum(snapshot.grid(path).nbytes for path in paths)
    if limit_bytes is not None and wanted > limit_bytes:
        raise LimitExceeded(
            f"snapshot {snapshot.short} holds {shown_bytes(wanted)} of arrays, more than {shown_bytes(limit_bytes)}; "
            "raise the limit if you trust its source"
        )
    reader = _Reader(backend, snapshot)
    arrays = {path: array for path in paths if (array := reader.tensor(path)) is not None}
    reader.raise_damage()
    return unflatten(structure, arrays)


class _Reader:
    """Reads the tensors of one snapshot and collects what is damaged."""

    def __init__(self, backend: Backend, snapshot: Snapshot) -> None:
        self._backend = backend
        self._snapshot = snapshot
        self._headers: dict[str, Header | None] = {}
        self._damaged: dict[str, str] = {}
        self._causes: dict[str, str] = {}

    def tensor(self, path: str) -> NDArray[Any] | None:
        """The array at ``path``, or None when a byte of it is not as it was written."""
        spec, lines = self._snapshot.tensors[path], self._snapshot.grid(path)
        buffer = np.empty(lines.nbytes, np.uint8)
        for index, piece in enumerate(spec.pieces):
            first, past = lines.span(index)
            if not self._read_piece(path, piece, buffer[first:past].data):
                return None
        if spec.dtype in TEXTS:
            return decode_texts(buffer, spec.shape, spec.dtype)
        dtype = numpy_dtype(spec.dtype)
        if not math.prod(spec.shape):
            return np.empty(spec.shape, dtype)
        return buffer.view(dtype).reshape(spec.shape)

    def raise_damage(self) -> None:
        """Raise Damaged when any tensor was."""
        if not self._damaged:
            return
        named = ", ".join(list(self._damaged)[:10])
        more = f" and {len(self._damaged) - 10} more" if len(self._damaged) > 10 else ""
        keys = list(dict.fromkeys(self._damaged.values()))
        cause = f" ({self._causes[keys[0]]})" if keys[0] in self._causes else ""
        raise Damaged(
            f"{keys[0]}: the bytes of {named}{more} are not those that were written{cause}; restore the file from "
            "a copy of the keep, or load an older checkpoint (`modelkeep verify` names everything that is damaged)",
            keys[0],
        )

    def _read_piece(self, path: str, piece: Digest, target: memoryview) -> bool:
        place = self._snapshot.places[piece]
        key = layout.shard_key(place.shard)
        header = self._header(place.shard, key)
        entry = header.entries.get(place.key) if header is not None else None
        if header is None or entry is None or entry.stop - entry.start != len(target):
            self._damaged[path] = key
            return False
        try:
            self._backend.read_into(key, header.data_start + entry.start, target)
        except (Damaged, NotFound) as error:
            self._damaged[path], self._causes[key] = key, str(error)
            return False
        if digest(target) != piece:
            self._damaged[path] = key
            return False
        return True

    def _header(self, shard: str, key: str) -> Header | None:
        """The header of a shard, checked against the record; None when it is damaged."""
        if shard not in self._headers:
            try:
                self._headers[shard] = self._checked_header(shard, key)
            except (Damaged, NotFound, LimitExceeded) as error:
                self._headers[shard] = None
                self._causes[key] = str(error)
        return self._headers[shard]

    def _checked_header(self, shard: str, key: str) -> Header:
        info = self._snapshot.shards[shard]
        size = self._backend.size(key)
        if size != info.size:
            raise Damaged(f"the shard has {size} bytes, and {info.size} were written", key)
        held = sum(place.nbytes for place in self._held(shard).values())
        prefix = self._backend.read(key, 0, 8)
        start = 8 + int.from_bytes(prefix, "little")
        if start > size - held:
            raise Damaged("the shard's header is not the one that was written", key)
        region = self._backend.read(key, 0, start)
        if digest(region) != info.header:
            raise Damaged("the shard's header is not the one that was written", key)
        return parse_header(region, size=size, key=key)

    def _held(self, shard: str) -> Mapping[Digest, Any]:
        return {piece: place for piece, place in self._snapshot.places.items() if place.shard == shard}
