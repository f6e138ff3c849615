"""A state onto the storage: pieces into shards, in one pass over the bytes.

The caller's thread hashes a piece while another thread writes the one before. A piece whose digest is known, from
this save or from the donor, is not written again. A shard's header stands before the data, but what it says is known
only after them: its room is reserved, and it is filled in last.
"""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from modelkeep.backend import Backend, ObjectWriter
from modelkeep.errors import ModelkeepError
from modelkeep.snapshot import Place, ShardInfo, Snapshot, TensorSpec
from modelkeep.snapshot.canonical import canonical_json
from modelkeep.snapshot.dtypes import Storage, is_native, logical_name, storage
from modelkeep.snapshot.pieces import Grid, Piece, cut, digest, grid, stored_array
from modelkeep.snapshot.safetensors import Entry, build_header, reserved_bytes
from modelkeep.state.tree import FlatState
from modelkeep.store import layout
from modelkeep.values import Digest, Json

MAX_DONOR_SHARDS = 16
"""A snapshot takes pieces from at most so many older shards; what lies in others is written again."""

SHARD_ENTRIES = 10_000
SHARD_BYTES = 4 << 30
"""A shard holds at most so many pieces and bytes; a larger state takes several."""

_AHEAD = 4
"""Pieces that are hashed and wait to be written."""

_SMALL = 64 << 10
_TOGETHER = 1 << 20
"""Pieces of at most `_SMALL` bytes are copied together until they are so many, and written at once."""

_FAR = 1 << 40
"""An offset as long as offsets get, for reserving a header's room."""


@dataclass(frozen=True, slots=True)
class Donor:
    """Pieces that are on the storage already, and the shards that hold them."""

    places: Mapping[Digest, Place] = field(default_factory=dict)
    shards: Mapping[str, ShardInfo] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot | None, *, without: AbstractSet[str] = frozenset()) -> "Donor":
        """The pieces of ``snapshot`` that may be reused: in the shards that hold most of it, none of ``without``."""
        if snapshot is None:
            return cls()
        held: Counter[str] = Counter()
        for place in snapshot.places.values():
            if place.shard not in without:
                held[place.shard] += place.nbytes
        shards = {name: snapshot.shards[name] for name, _ in held.most_common(MAX_DONOR_SHARDS)}
        return cls({piece: place for piece, place in snapshot.places.items() if place.shard in shards}, shards)


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

    def entry(self, first: int, past: int, start: int) -> Entry:
        """Rows ``first`` to ``past`` as the shard's header names them; the whole array under its path alone."""
        trailing = (self.storage.trailing,) if self.storage.trailing else ()
        whole = first == 0 and past == self.grid.rows
        shape = self.array.shape if whole else (past - first, *self.grid.row_shape)
        key = self.path if whole else f"{self.path}#rows-{first}-{past}"
        nbytes = (past - first) * self.grid.row_bytes
        return Entry(key, self.storage.dtype, (*shape, *trailing), start, start + nbytes)


def write_state(
    backend: Backend, state: FlatState, meta: Mapping[str, Json], *, name_shard: Callable[[], str], donor: Donor
) -> Snapshot:
    """Make the pieces of ``state`` durable, in new shards as far as the donor has them not.

    Returns: the snapshot, whose record is not written yet.

    Raises:
        StorageError: the storage refused; nothing of the new shards is left.
        UnsupportedState: a dtype that cannot be kept.
    """
    tensors = [_Tensor.of(path, array) for path, array in state.arrays.items()]
    # Wide values first: then the data of each lie at a multiple of its size, for readers that map the file.
    by_width = sorted(tensors, key=lambda tensor: -tensor.array.dtype.itemsize)
    places: dict[Digest, Place] = {}
    specs: dict[str, TensorSpec] = {}
    with _Shards(backend, by_width, name_shard, room_for_all=not donor.places) as new:
        for tensor in by_width:
            pieces = []
            for piece in cut(tensor.array):
                name = digest(piece.data)
                pieces.append(name)
                if name not in places:
                    places[name] = donor.places.get(name) or new.append(tensor, piece)
                new.passed += 1
            specs[tensor.path] = TensorSpec(tensor.dtype, tensor.shape, tensor.grid.piece_rows, tuple(pieces))
        new.commit()
    known = {**donor.shards, **new.infos}
    shards = {name: known[name] for name in dict.fromkeys(place.shard for place in places.values())}
    return Snapshot.of(state.structure, {path: specs[path] for path in state.arrays}, meta, shards, places)


class _Shards:
    """The shards of one save; the first comes to be with the first piece that is new."""

    def __init__(
        self, backend: Backend, tensors: Sequence[_Tensor], name_shard: Callable[[], str], *, room_for_all: bool
    ) -> None:
        self.passed = 0
        """Pieces of the state that are behind us, new or not."""
        self.infos: dict[str, ShardInfo] = {}
        """The shards that are durable."""
        self._backend = backend
        self._tensors = tensors
        self._name_shard = name_shard
        self._room_for_all = room_for_all
        self._possible: list[Entry] = []
        self._entries: list[Entry] = []
        self._dtypes: dict[str, Json] = {}
        self._name = ""
        self._end = self._reserved = self._last = 0
        self._writer: ObjectWriter | None = None
        self._pipe: _Pipe | None = None

    def append(self, tensor: _Tensor, piece: Piece) -> Place:
        """Hand a piece to the writing thread."""
        if self._pipe is not None and self.passed >= self._last:
            self.commit()
        pipe = self._pipe or self._begin()
        entry = tensor.entry(piece.first, piece.past, self._end)
        self._entries.append(entry)
        if not is_native(tensor.dtype):
            self._dtypes[entry.key] = tensor.dtype
        self._end = entry.stop
        pipe.put(piece.data)
        return Place(self._name, entry.key, piece.data.nbytes)

    def commit(self) -> None:
        """Make the shard under way durable; nothing when no piece was new."""
        if self._writer is None or self._pipe is None:
            return
        self._pipe.close()
        header = build_header(self._entries, _metadata(self._dtypes), self._reserved)
        self._writer.write_at(0, header)
        self._writer.commit()
        self.infos[self._name] = ShardInfo(self._reserved + self._end, digest(header))
        self._pipe = self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pipe is not None:
            self._pipe.stop()
        if self._writer is not None:
            self._writer.abort()
        if error is not None:
            delete_shards(self._backend, self.infos)

    def _begin(self) -> "_Pipe":
        """Open a file; its header gets room for every piece that may still come into it, new or not."""
        if not self._possible:
            self._possible = [entry for tensor in self._tensors for entry in _all_entries(tensor)]
        self._last = _window(self._possible, self.passed)
        coming = self._possible[self.passed : self._last]
        borrowed = {tensor.path: tensor.dtype for tensor in self._tensors if not is_native(tensor.dtype)}
        dtypes: dict[str, Json] = {
            entry.key: borrowed[path] for entry in coming if (path := entry.key.partition("#")[0]) in borrowed
        }
        self._reserved = reserved_bytes(coming, _metadata(dtypes))
        # With a donor nobody knows how much is new, and a full disk must not refuse what would fit.
        nbytes = sum(entry.stop - entry.start for entry in coming) if self._room_for_all else 0
        self._name, self._entries, self._dtypes, self._end = self._name_shard(), [], {}, 0
        self._writer = self._backend.writer(layout.shard_key(self._name), size_hint=self._reserved + nbytes)
        self._writer.reserve(self._reserved)
        self._pipe = _Pipe(self._writer)
        return self._pipe


def _all_entries(tensor: _Tensor) -> Iterator[Entry]:
    """The entries of all pieces, as long as they can get."""
    return (tensor.entry(*tensor.grid.bounds(index), _FAR) for index in range(tensor.grid.count))


def _window(entries: Sequence[Entry], first: int) -> int:
    """Past the last of ``entries`` that may lie in one shard with the one at ``first``."""
    nbytes = 0
    for index in range(first, min(first + SHARD_ENTRIES, len(entries))):
        nbytes += entries[index].stop - entries[index].start
        if nbytes > SHARD_BYTES and index > first:
            return index
    return min(first + SHARD_ENTRIES, len(entries))


def _metadata(dtypes: Mapping[str, Json]) -> dict[str, str]:
    """Logical dtypes that safetensors lacks, by key, for readers who have nothing but the shard."""
    return {"dtypes": canonical_json(dtypes).decode()} if dtypes else {}


def delete_shards(backend: Backend, names: AbstractSet[str] | Mapping[str, object]) -> None:
    """Remove shards that no record names, after a failure; what cannot be removed is garbage for the sweep."""
    for name in names:
        try:
            backend.delete(layout.shard_key(name))
        except ModelkeepError:
            return  # the error that brought us here is the one to tell


class _Pipe:
    """A thread that writes what it is handed, in order, a few pieces behind the caller."""

    def __init__(self, writer: ObjectWriter) -> None:
        self._writer = writer
        self._queue: queue.Queue[memoryview | None] = queue.Queue(_AHEAD)
        self._small = bytearray()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="modelkeep-pieces", daemon=True)
        self._thread.start()

    def put(self, data: memoryview) -> None:
        """Hand data over; waits while too many pieces are ahead. Raises what went wrong in writing."""
        if data.nbytes <= _SMALL:
            self._small += data
            if len(self._small) < _TOGETHER:
                return
        self._flush()
        if data.nbytes > _SMALL:
            self._put(data)

    def close(self) -> None:
        """Return when all is written. Raises what went wrong in writing."""
        self._flush()
        self.stop()
        self._raise_error()

    def stop(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _flush(self) -> None:
        if self._small:
            together, self._small = self._small, bytearray()
            self._put(memoryview(together))

    def _put(self, data: memoryview) -> None:
        self._raise_error()
        self._queue.put(data)

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
