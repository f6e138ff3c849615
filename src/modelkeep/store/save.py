"""A state onto the storage: pieces into one shard, in one pass over the bytes.

The caller's thread hashes a piece while another thread writes the one before. A piece whose digest is known, from
this save or from the donor, is not written again. The shard's header stands before the data, but what it says is known
only after them: its room is reserved, and it is filled in last.
"""

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from modelkeep.backend import Backend, ObjectWriter
from modelkeep.snapshot import Place, ShardInfo, Snapshot, TensorSpec
from modelkeep.snapshot.dtypes import Storage, logical_name, storage
from modelkeep.snapshot.pieces import Grid, Piece, cut, digest, grid, stored_array
from modelkeep.snapshot.safetensors import Entry, build_header, reserved_bytes
from modelkeep.state.tree import FlatState
from modelkeep.store import layout
from modelkeep.values import Digest, Json

MAX_DONOR_SHARDS = 16
"""A snapshot takes pieces from fewer older shards than this; where the donor has more, it is written whole again."""

_AHEAD = 4
"""Pieces that are hashed and wait to be written."""

_FAR = 1 << 40
"""An offset as long as offsets get, for reserving a header's room."""


@dataclass(frozen=True, slots=True)
class Donor:
    """Pieces that are on the storage already, and the shards that hold them."""

    places: Mapping[Digest, Place] = field(default_factory=dict)
    shards: Mapping[str, ShardInfo] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot | None, *, without: set[str]) -> "Donor":
        """The pieces of ``snapshot`` that may be reused; those in the shards ``without`` may not."""
        if snapshot is None or len(snapshot.shards) >= MAX_DONOR_SHARDS:
            return cls()
        places = {piece: place for piece, place in snapshot.places.items() if place.shard not in without}
        return cls(places, snapshot.shards)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One array as it is stored."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    array: NDArray[Any]
    """The array itself; for texts the stream of their bytes."""
    storage: Storage
    grid: Grid

    @classmethod
    def of(cls, path: str, array: NDArray[Any]) -> "_Tensor":
        name, stored = logical_name(array), stored_array(array)
        kind = storage(name)
        return cls(path, name, array.shape, stored, kind, grid(stored.shape, kind.itemsize))

    def entry(self, first: int, past: int, start: int, nbytes: int) -> Entry:
        """Rows ``first`` to ``past`` as the shard's header names them; the whole array under its path alone."""
        trailing = (self.storage.trailing,) if self.storage.trailing else ()
        whole = first == 0 and past == self.grid.rows
        shape = self.array.shape if whole else (past - first, *self.grid.row_shape)
        key = self.path if whole else f"{self.path}#rows-{first}-{past}"
        return Entry(key, self.storage.dtype, (*shape, *trailing), start, start + nbytes)

    def possible_entries(self) -> Iterator[Entry]:
        """The entries of all pieces, as long as they can get."""
        for index in range(self.grid.count):
            yield self.entry(*self.grid.bounds(index), _FAR, 0)


def write_state(backend: Backend, state: FlatState, meta: Mapping[str, Json], *, shard: str, donor: Donor) -> Snapshot:
    """Make the pieces of ``state`` durable, in the new shard ``shard`` as far as the donor has them not.

    Returns: the snapshot, whose record is not written yet.

    Raises:
        StorageError: the storage refused; nothing of the shard is left.
        UnsupportedState: a dtype that cannot be kept.
    """
    tensors = [_Tensor.of(path, array) for path, array in state.arrays.items()]
    shards: dict[str, ShardInfo] = {}
    places: dict[Digest, Place] = {}
    specs: dict[str, TensorSpec] = {}
    with _Shard(backend, shard, tensors) as new:
        for tensor in tensors:
            pieces = []
            for piece in cut(tensor.array):
                name = digest(piece.data)
                pieces.append(name)
                if name not in places:
                    known = donor.places.get(name)
                    places[name] = known or new.append(tensor, piece)
                    if known is not None:
                        shards[known.shard] = donor.shards[known.shard]
            specs[tensor.path] = TensorSpec(tensor.dtype, tensor.shape, tensor.grid.piece_rows, tuple(pieces))
        info = new.commit()
    if info is not None:
        shards[shard] = info
    return Snapshot.of(state.structure, specs, meta, shards, places)


class _Shard:
    """The shard of one save; it comes to be with the first piece that is new."""

    def __init__(self, backend: Backend, name: str, tensors: Sequence[_Tensor]) -> None:
        self._backend = backend
        self._name = name
        self._tensors = tensors
        self._entries: list[Entry] = []
        self._end = self._reserved = 0
        self._writer: ObjectWriter | None = None
        self._pipe: _Pipe | None = None

    def append(self, tensor: _Tensor, piece: Piece) -> Place:
        """Hand a piece to the writing thread."""
        if self._pipe is None:
            self._pipe = self._begin()
        entry = tensor.entry(piece.first, piece.past, self._end, piece.data.nbytes)
        self._entries.append(entry)
        self._end = entry.stop
        self._pipe.put(piece.data)
        return Place(self._name, entry.key, piece.data.nbytes)

    def commit(self) -> ShardInfo | None:
        """Make the shard durable; None when no piece was new."""
        if self._writer is None or self._pipe is None:
            return None
        self._pipe.close()
        header = build_header(self._entries, self._metadata(), self._reserved)
        self._writer.write_at(0, header)
        self._writer.commit()
        return ShardInfo(self._reserved + self._end, digest(header))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pipe is not None:
            self._pipe.stop()
        if self._writer is not None:
            self._writer.abort()

    def _begin(self) -> "_Pipe":
        """Open the file; its header gets room for every piece of the state, new or not."""
        entries = [entry for tensor in self._tensors for entry in tensor.possible_entries()]
        self._reserved = reserved_bytes(entries, self._metadata())
        nbytes = sum(tensor.grid.nbytes for tensor in self._tensors)
        self._writer = self._backend.writer(layout.shard_key(self._name), size_hint=self._reserved + nbytes)
        self._writer.reserve(self._reserved)
        return _Pipe(self._writer)

    def _metadata(self) -> dict[str, str]:
        """Logical dtypes that safetensors lacks, for readers who have nothing but the shard."""
        return {
            f"dtype:{tensor.path}": tensor.dtype
            for tensor in self._tensors
            if tensor.storage.trailing or tensor.dtype in ("str", "bytes")
        }


class _Pipe:
    """A thread that writes what it is handed, in order, a few pieces behind the caller."""

    def __init__(self, writer: ObjectWriter) -> None:
        self._writer = writer
        self._queue: queue.Queue[memoryview | None] = queue.Queue(_AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="modelkeep-pieces", daemon=True)
        self._thread.start()

    def put(self, data: memoryview) -> None:
        """Hand data over; waits while too many pieces are ahead. Raises what went wrong in writing."""
        self._raise_error()
        self._queue.put(data)

    def close(self) -> None:
        """Return when all is written. Raises what went wrong in writing."""
        self.stop()
        self._raise_error()

    def stop(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._writer.append(data)
                except BaseException as error:  # noqa: BLE001  it belongs to the thread that saves, which raises it
                    self._error = error
