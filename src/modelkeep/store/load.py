"""A state from the storage: every byte is read once, into its place, and compared with its digest."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.backend import Backend
from modelkeep.budget import memory_bytes
from modelkeep.errors import Damaged, LimitExceeded, NotFound, StateMismatch
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.dtypes import TEXTS, logical_name, numpy_dtype
from modelkeep.snapshot.pieces import digest
from modelkeep.snapshot.record import shown_bytes
from modelkeep.snapshot.safetensors import Header, data_start, parse_header
from modelkeep.snapshot.texts import decode_texts
from modelkeep.state.memory import aligned
from modelkeep.state.rows import byte_view
from modelkeep.state.tree import flatten, tensor_paths, unflatten
from modelkeep.state.tree import select as select_paths
from modelkeep.store import layout
from modelkeep.values import Digest

_READERS = max(2, min(os.cpu_count() or 2, 8))
"""Threads, one for a processor: with more, a disk is read so far out of order that it reads ahead in vain."""

_BATCH = 4 << 20
"""Bytes of small pieces that one thread reads before it asks for more to do."""

_AT_ONCE = 64 << 10
"""Bytes read of a shard's beginning before the length of its header is known."""


def read_state(
    backend: Backend,
    snapshot: Snapshot,
    *,
    select: Sequence[str] | None = None,
    into: Any = None,
    limit_bytes: int | None = None,
) -> Any:
    """Return the state of ``snapshot``, or the part of it whose paths match the patterns ``select``.

    Only the pieces of that part are read, each into its place: in new arrays, or in those of the tree ``into``. Nothing
    is allocated before the sizes in the record have been compared with the shards that are there and with
    ``limit_bytes``, by default the memory of this machine.

    Raises:
        Damaged: bytes are missing or are not those that were written; every damaged tensor is named.
        LimitExceeded: the arrays have more than ``limit_bytes`` bytes; nothing was allocated.
        NotFound: a pattern that no path matches.
        StateMismatch: ``into`` lacks a path, or an array there cannot take the bytes; nothing was changed.
    """
    structure = snapshot.structure if select is None else select_paths(snapshot.structure, select)
    paths = tensor_paths(structure)
    wanted = sum(snapshot.grid(path).nbytes for path in paths)
    limit = memory_bytes() if limit_bytes is None else limit_bytes
    if wanted > limit:
        raise LimitExceeded(
            f"snapshot {snapshot.short} holds {shown_bytes(wanted)} of arrays, more than {shown_bytes(limit)}; "
            "load a part of it with select, or raise limit_bytes if you trust its source"
        )
    return unflatten(structure, read_tensors(backend, snapshot, paths, into))


def read_tensors(
    backend: Backend, snapshot: Snapshot, paths: Sequence[str], into: Any = None
) -> dict[str, NDArray[Any]]:
    """The arrays at ``paths`` by path, every byte checked. Raises Damaged, StateMismatch as `read_state`."""
    reader = _Reader(backend, snapshot)
    arrays = reader.tensors(paths, {} if into is None else _targets(snapshot, paths, into))
    reader.raise_damage()
    return arrays


def _targets(snapshot: Snapshot, paths: Sequence[str], into: Any) -> dict[str, NDArray[Any]]:
    """The arrays of ``into`` that the tensors at ``paths`` are read into. Raises StateMismatch."""
    given = flatten(into).arrays
    found: dict[str, NDArray[Any]] = {}
    wrong: list[str] = []
    for path in paths:
        spec, array = snapshot.tensors[path], given.get(path)
        wanted = f"{path or 'the array'}: {spec.dtype} {list(spec.shape)} is kept"
        if array is None:
            wrong.append(f"{wanted}, and nothing is there")
        elif spec.dtype in TEXTS:
            wrong.append(f"{wanted}, and texts have no memory of a fixed size")
        elif (logical_name(array), array.shape) != (spec.dtype, spec.shape):
            wrong.append(f"{wanted}, and the array is {logical_name(array)} {list(array.shape)}")
        elif not array.flags.writeable and (array.ndim == 0 or isinstance(array.base, bytes)):
            continue  # a scalar, or Python's bytes: what cannot be written to is returned anew
        elif not (array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative):
            wrong.append(f"{wanted}, and the array is read-only, not C-contiguous or not of this machine's byte order")
        else:
            found[path] = array
    if wrong:
        more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        listed = "\n  ".join(wrong[:20])
        raise StateMismatch(
            f"snapshot {snapshot.short} cannot be read into these arrays, and nothing was changed; load it without "
            f"into, or a part of it with select:\n  {listed}{more}"
        )
    return found


@dataclass(frozen=True, slots=True)
class _Job:
    """One piece to read: where it lies, and every place in memory that it belongs to."""

    piece: Digest
    key: str
    offset: int
    targets: list[tuple[str, memoryview]]


def _batches(jobs: Iterable[_Job]) -> Iterator[list[_Job]]:
    """Jobs in their order, small ones together."""
    batch: list[_Job] = []
    nbytes = 0
    for job in jobs:
        batch.append(job)
        nbytes += job.targets[0][1].nbytes
        if nbytes >= _BATCH:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def _runs(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """Jobs in their order, those whose pieces lie behind one another together."""
    run: list[_Job] = []
    for job in jobs:
        if run and (job.key, job.offset) != (run[-1].key, run[-1].offset + run[-1].targets[0][1].nbytes):
            yield run
            run = []
        run.append(job)
    if run:
        yield run


class _Reader:
    """Reads tensors of one snapshot and collects what is damaged."""

    def __init__(self, backend: Backend, snapshot: Snapshot) -> None:
        self._backend = backend
        self._snapshot = snapshot
        self._headers: dict[str, Header | None] = {}
        self._damaged: dict[str, str] = {}
        self._causes: dict[str, str] = {}

    def tensors(self, paths: Sequence[str], targets: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The arrays at ``paths`` by path, those of ``targets`` where they have it, else new ones.

        Left out are those of which a byte is not as it was written.
        """
        # All headers before the first array: a record may speak of bytes that no shard has.
        self._read_headers(paths)
        whole = [path for path in paths if self._is_placed(path)]
        arrays: dict[str, NDArray[Any]] = {}
        for path in whole:
            spec = self._snapshot.tensors[path]
            if path in targets:
                arrays[path] = targets[path]
                continue
            if spec.dtype in TEXTS:
                arrays[path] = np.empty(self._snapshot.grid(path).nbytes, np.uint8)
            else:
                arrays[path] = aligned(spec.shape, numpy_dtype(spec.dtype))
        with ThreadPoolExecutor(max(_READERS, self._backend.requests), "modelkeep-read") as pool:
            for job, cause in chain.from_iterable(pool.map(self._read, _batches(self._jobs(arrays)))):
                self._damaged.update((path, job.key) for path, _ in job.targets)
                self._causes.setdefault(job.key, cause)
        return {path: self._decoded(path, array) for path, array in arrays.items() if path not in self._damaged}

    def _read_headers(self, paths: Sequence[str]) -> None:
        """Ask for the headers side by side where each is a request or two: a large state has hundreds of shards."""
        if self._backend.requests == 1:
            return
        snapshot = self._snapshot
        shards = {snapshot.places[piece].shard for path in paths for piece in snapshot.tensors[path].pieces}
        with ThreadPoolExecutor(self._backend.requests, "modelkeep-read") as pool:
            list(pool.map(lambda shard: self._header(shard, layout.shard_key(shard)), shards))

    def raise_damage(self) -> None:
        """Raise Damaged when any tensor was."""
        if not self._damaged:
            return
        named = ", ".join(path or "the array" for path in list(self._damaged)[:10])
        more = f" and {len(self._damaged) - 10} more" if len(self._damaged) > 10 else ""
        key = next(iter(self._damaged.values()))
        others = len(set(self._damaged.values())) - 1
        files = f" (and {others} more files)" if others else ""
        raise Damaged(
            f"{key}{files}: the bytes of {named}{more} are not those that were written: {self._causes[key]}; restore "
            "the file from a copy of the keep, or load an older checkpoint (`modelkeep verify` names everything that "
            "is damaged)",
            key,
        )

    def _is_placed(self, path: str) -> bool:
        """Whether the headers of the shards have every piece of the tensor, as long as it should be."""
        for piece in self._snapshot.tensors[path].pieces:
            place = self._snapshot.places[piece]
            key = layout.shard_key(place.shard)
            header = self._header(place.shard, key)
            entry = header.entries.get(place.key) if header is not None else None
            if entry is None or entry.stop - entry.start != place.nbytes:
                self._damaged[path] = key
                self._causes.setdefault(key, f"the shard holds no piece {place.key} of {place.nbytes} bytes")
                return False
        return True

    def _jobs(self, arrays: dict[str, NDArray[Any]]) -> Iterable[_Job]:
        """What is to be read, each piece once, in the order in which it lies in the shards."""
        jobs: dict[Digest, _Job] = {}
        for path, array in arrays.items():
            if not array.nbytes:
                continue
            data, lines = byte_view(array).data, self._snapshot.grid(path)
            for index, piece in enumerate(self._snapshot.tensors[path].pieces):
                place = self._snapshot.places[piece]
                header = self._headers[place.shard]
                assert header is not None, "checked by _is_placed"
                offset = header.data_start + header.entries[place.key].start
                job = jobs.setdefault(piece, _Job(piece, layout.shard_key(place.shard), offset, []))
                first, past = lines.span(index)
                job.targets.append((path, data[first:past]))
        return sorted(jobs.values(), key=lambda job: (job.key, job.offset))

    def _read(self, jobs: Sequence[_Job]) -> list[tuple[_Job, str]]:
        """Read pieces into their places; those that are damaged, with what is wrong with them."""
        bad: list[tuple[_Job, str]] = []
        for run in _runs(jobs) if self._backend.requests > 1 else ([job] for job in jobs):
            bad += self._read_run(run)
        return bad

    def _read_run(self, jobs: Sequence[_Job]) -> list[tuple[_Job, str]]:
        """Read pieces that lie behind one another, by one request."""
        if len(jobs) == 1:
            together: memoryview = jobs[0].targets[0][1]
        else:
            together = memoryview(bytearray(sum(job.targets[0][1].nbytes for job in jobs)))
        try:
            self._backend.read_into(jobs[0].key, jobs[0].offset, together)
        except (Damaged, NotFound) as error:
            if len(jobs) == 1:
                return [(jobs[0], str(error))]
            return [found for job in jobs for found in self._read_run([job])]
        bad: list[tuple[_Job, str]] = []
        for job in jobs:
            target = job.targets[0][1]
            if len(jobs) > 1:
                first = job.offset - jobs[0].offset
                target[:] = together[first : first + target.nbytes]
            if digest(target) != job.piece:
                bad.append((job, f"the {len(target)} bytes from byte {job.offset} on have another digest"))
            for _, other in job.targets[1:]:
                other[:] = target
        return bad

    def _decoded(self, path: str, array: NDArray[Any]) -> NDArray[Any]:
        spec = self._snapshot.tensors[path]
        if spec.dtype not in TEXTS:
            return array
        try:
            return decode_texts(array, spec.shape, spec.dtype)
        except Damaged as error:
            key = layout.snapshot_key(self._snapshot.id)
            self._damaged[path], self._causes[key] = key, str(error)
            return array

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
        region = self._backend.read(key, 0, min(_AT_ONCE, size))
        start = data_start(region, size, key)
        region = region[:start] if start <= len(region) else self._backend.read(key, 0, start)
        if digest(region) != info.header:
            raise Damaged("the shard's header is not the one that was written", key)
        return parse_header(region, size=size, key=key)
