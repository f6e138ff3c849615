"""A state onto the storage: pieces into shards, in one pass over the bytes.

Two threads hash pieces while this one hands the ones before to the writer. A piece whose digest is known, from this
save or from the donor, is not written again. A shard's header stands before the data, but what it says is known only
after them: its room is reserved, and it is filled in last.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from modelkeep.backend import Backend, ObjectWriter, Workers
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
"""A checkpoint takes pieces from at most so many older shards; what lies in others is written again."""

VERSION_SHARDS = 256
"""The same for a version of a model: each may add a layer to those before, and there are few to be read."""

SHARD_ENTRIES = 10_000
"""A shard holds at most so many pieces; a larger state takes several."""

_AHEAD = 4
"""Groups of pieces that are hashed ahead of the one that is written."""

_HASHERS = 2
"""Threads that hash, where a state is worth them: two keep ahead of one disk."""

_WORTH_THREADS = 8 << 20
"""Bytes of a state from which on starting threads costs less than they save."""

_TOGETHER = 1 << 20
"""Pieces go to a hashing thread together until they have so many bytes."""

_FAR = 1 << 40
"""An offset as long as offsets get, for reserving a header's room."""


@dataclass(frozen=True, slots=True)
class Donor:
    """Pieces that are on the storage already, and the shards that hold them."""

    places: Mapping[Digest, Place] = field(default_factory=dict)
    shards: Mapping[str, ShardInfo] = field(default_factory=dict)
    unchanged: Mapping[str, TensorSpec] = field(default_factory=dict)
    """Tensors that need not be hashed: the caller knows that they are as they were."""

    @classmethod
    def of(
        cls,
        snapshot: Snapshot | None,
        *,
        without: AbstractSet[str] = frozenset(),
        unchanged: AbstractSet[str] = frozenset(),
        most: int = MAX_DONOR_SHARDS,
    ) -> "Donor":
        """The pieces of ``snapshot`` that may be reused: in the ``most`` shards that hold most of it.

        None of those ``without``.
        """
        if snapshot is None:
            return cls()
        held: Counter[str] = Counter()
        for place in snapshot.places.values():
            if place.shard not in without:
                held[place.shard] += place.nbytes
        shards = {name: snapshot.shards[name] for name, _ in held.most_common(most)}
        places = {piece: place for piece, place in snapshot.places.items() if place.shard in shards}
        specs = {path: snapshot.tensors[path] for path in unchanged if path in snapshot.tensors}
        known = {path: spec for path, spec in specs.items() if all(piece in places for piece in spec.pieces)}
        return cls(places, shards, known)


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
    specs = {path: spec for path, spec in donor.unchanged.items() if path in state.arrays}
    tensors = [_Tensor.of(path, array) for path, array in state.arrays.items() if path not in specs]
    # Wide values first: then the data of each lie at a multiple of its size, for readers that map the file.
    by_width = sorted(tensors, key=lambda tensor: -tensor.array.dtype.itemsize)
    places = {piece: donor.places[piece] for spec in specs.values() for piece in spec.pieces}
    with _Shards(backend, by_width, name_shard, room_for_all=not donor.places) as new:
        names: dict[str, list[Digest]] = {tensor.path: [] for tensor in by_width}
        for tensor, piece, name in _named(by_width):
            names[tensor.path].append(name)
            if name not in places:
                places[name] = donor.places.get(name) or new.append(tensor, piece)
            new.passed += 1
        new.commit()
    for tensor in tensors:
        pieces = tuple(names[tensor.path])
        specs[tensor.path] = TensorSpec(tensor.dtype, tensor.shape, tensor.grid.piece_rows, pieces)
    known = {**donor.shards, **new.infos}
    shards = {name: known[name] for name in dict.fromkeys(place.shard for place in places.values())}
    return Snapshot.of(state.structure, {path: specs[path] for path in state.arrays}, meta, shards, places)


_Group = list[tuple[_Tensor, Piece]]


def _named(tensors: Sequence[_Tensor]) -> Iterator[tuple[_Tensor, Piece, Digest]]:
    """The pieces of all tensors in order, each with its digest; hashed ahead of the caller."""
    if sum(tensor.grid.nbytes for tensor in tensors) < _WORTH_THREADS:
        for group in _groups(tensors):
            yield from _hashed(group)
        return
    ahead: deque[Future[list[tuple[_Tensor, Piece, Digest]]]] = deque()
    with Workers(_HASHERS, "modelkeep-hash") as pool:
        for group in _groups(tensors):
            ahead.append(pool.submit(_hashed, group))
            if len(ahead) > _AHEAD:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _groups(tensors: Sequence[_Tensor]) -> Iterator[_Group]:
    """Pieces in their order, small ones together: handing one over costs as much as hashing some KiB."""
    group: _Group = []
    nbytes = 0
    for tensor in tensors:
        for piece in cut(tensor.array):
            group.append((tensor, piece))
            nbytes += piece.data.nbytes
            if nbytes >= _TOGETHER:
                yield group
                group, nbytes = [], 0
    if group:
        yield group


def _hashed(group: _Group) -> list[tuple[_Tensor, Piece, Digest]]:
    return [(tensor, piece, digest(piece.data)) for tensor, piece in group]


class _Shards:
    """The shards of one save; the first comes to be with the first piece that is new."""

    def __init__(
        self, backend: Backend, tensors: Sequence[_Tensor], name_shard: Callable[[], str], *, room_for_all: bool
    ) -> None:
        self.passed = 0
        """Pieces of the state that are behind us, new or not."""
        self.infos: dict[str, ShardInfo] = {}
        """The shards that are durable, or may be."""
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
        self._threads: Workers | None = None
        self._under_way: deque[tuple[str, ShardInfo, Future[None]]] = deque()

    def append(self, tensor: _Tensor, piece: Piece) -> Place:
        """Write a piece behind the ones before."""
        if self._writer is not None and self.passed >= self._last:
            self._finish_shard()
        writer = self._writer or self._begin()
        entry = tensor.entry(piece.first, piece.past, self._end)
        self._entries.append(entry)
        if not is_native(tensor.dtype):
            self._dtypes[entry.key] = tensor.dtype
        self._end = entry.stop
        writer.append(piece.data)
        return Place(self._name, entry.key, piece.data.nbytes)

    def commit(self) -> None:
        """Make all that was appended durable; nothing when no piece was new."""
        self._finish_shard()
        while self._under_way:
            self._wait_for_one()

    def _finish_shard(self) -> None:
        """Let no more come into the shard under way; with several requests at once it is committed beside the next."""
        if self._writer is None:
            return
        header = build_header(self._entries, _metadata(self._dtypes), self._reserved)
        self._writer.write_at(0, header)
        info = ShardInfo(self._reserved + self._end, digest(header))
        if self._backend.requests == 1:
            self._writer.commit()
            self.infos[self._name], self._writer = info, None
            return
        writer, self._writer = self._writer, None
        if self._threads is None:
            self._threads = Workers(self._backend.requests, "modelkeep-upload")
        self._under_way.append((self._name, info, self._threads.submit(_commit, writer)))
        if len(self._under_way) >= self._backend.requests:
            self._wait_for_one()

    def _wait_for_one(self) -> None:
        name, info, done = self._under_way.popleft()
        self.infos[name] = info  # though it fails: whether it is there is not known then
        done.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.abort()
        if self._threads is not None:
            self._threads.close()
        self.infos.update((name, info) for name, info, _ in self._under_way)
        if error is not None:
            delete_shards(self._backend, self.infos)

    def _begin(self) -> ObjectWriter:
        """Open a file; its header gets room for every piece that may still come into it, new or not."""
        if not self._possible:
            self._possible = [entry for tensor in self._tensors for entry in _all_entries(tensor)]
        self._last = _window(self._possible, self.passed, self._backend.shard_bytes)
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
        return self._writer


def _commit(writer: ObjectWriter) -> None:
    try:
        writer.commit()
    finally:
        writer.abort()


def _all_entries(tensor: _Tensor) -> Iterator[Entry]:
    """The entries of all pieces, as long as they can get."""
    return (tensor.entry(*tensor.grid.bounds(index), _FAR) for index in range(tensor.grid.count))


def _window(entries: Sequence[Entry], first: int, most: int) -> int:
    """Past the last of ``entries`` that may lie in one shard with the one at ``first``."""
    nbytes = 0
    for index in range(first, min(first + SHARD_ENTRIES, len(entries))):
        nbytes += entries[index].stop - entries[index].start
        if nbytes > most and index > first:
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
