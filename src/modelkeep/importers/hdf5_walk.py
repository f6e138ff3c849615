"""The datasets of an HDF5 file, each looked at before a byte of it is read: where it lies, and what it would take."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, UnknownFormat, Unsafe, UnsupportedState
from modelkeep.importers.hdf5_texts import read_text
from modelkeep.importers.source import Source
from modelkeep.snapshot.dtypes import logical_name

GZIP, SHUFFLE = 1, 2
"""The filters that are known: each is undone where the values are read."""
_RAW = {"bfloat16", "float8_e4m3fn", "float8_e5m2"}
"""What Keras stores as bytes and names in an attribute, for HDF5 has no such number."""


@dataclass(frozen=True, slots=True)
class Found:
    """A dataset. ``offset``: where its values lie, if in one run; ``swapped``: big-endian."""

    dtype: str
    shape: tuple[int, ...]
    offset: int | None
    swapped: bool
    chunk: tuple[int, ...] | None = None
    """The shape of a chunk, where it is stored in chunks."""
    filters: tuple[int, ...] = ()
    chunks: tuple[tuple[tuple[int, ...], int, int, int], ...] = ()
    """Of each chunk: its first place in the array, its offset and size in the file, and a mask of filters left out."""

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "Found":
        """From JSON."""
        chunk = item["chunk"] and tuple(item["chunk"])
        chunks = tuple((tuple(place), *rest) for place, *rest in item["chunks"])
        return cls(
            item["dtype"], tuple(item["shape"]), item["offset"], item["swapped"], chunk, tuple(item["filters"]), chunks
        )


def walk(file: Any, source: Source, budget: Budget) -> dict[str, Found]:
    """All datasets by path, in the order of the file.

    Raises:
        Unsafe: soft and external links, external and virtual datasets.
        Damaged: groups that hold themselves, values that the file does not hold.
        UnknownFormat: values that are no numbers, filters that are not known.
        LimitExceeded: deeper or more than the budget allows.
    """
    return _Walk(source, budget).run(file)


class _Walk:
    def __init__(self, source: Source, budget: Budget) -> None:
        self._source, self._budget = source, budget
        self._found: dict[str, Found] = {}
        self._groups: set[Any] = set()
        self._entries = self._nbytes = 0

    def run(self, file: Any) -> dict[str, Found]:
        """Walk without recursion: the depth is the file's choice."""
        import h5py

        todo = [(file.id, "", 0)]
        while todo:
            group, path, depth = todo.pop()
            self._budget.check("depth", depth, self._source.name)
            address = h5py.h5o.get_info(group).addr
            if address in self._groups:
                raise Damaged(f"{self._source.name}: the group {path!r:.200} is in it twice, or within itself", path)
            self._groups.add(address)
            self._entries += len(group)
            self._budget.check("entries", self._entries, self._source.name)
            inner = []
            for raw in group:
                name = self._check_link(group, raw, path)
                child, where = h5py.h5o.open(group, raw), f"{path}/{name}" if path else name
                if isinstance(child, h5py.h5g.GroupID):
                    inner.append((child, where, depth + 1))
                elif isinstance(child, h5py.h5d.DatasetID):
                    self._found[where] = self._look_at(child, where)
                else:
                    raise UnknownFormat(f"{self._source.name}: {where!r:.200} is neither a group nor a dataset")
            todo += reversed(inner)
        return self._found

    def _check_link(self, group: Any, raw: bytes, path: str) -> str:
        import h5py

        where = f"{self._source.name}: {path!r:.200}"
        if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
            raise Unsafe(
                f"{where} holds the link {raw!r:.200} to another place; it was not followed, copy what it names"
            )
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise Damaged(f"{where} holds the name {raw!r:.200}, which is not UTF-8", self._source.name) from None
        if name in (".", "..", "") or not name.isprintable():
            raise Damaged(f"{where} holds the name {name!r:.200}", self._source.name)
        return name

    def _look_at(self, dataset: Any, path: str) -> Found:
        """What a dataset is, once the file can hold what it declares."""
        import h5py

        where = f"{self._source.name}: {path!r:.200}"
        plan = dataset.get_create_plist()
        layout = plan.get_layout()
        if plan.get_external_count() or layout not in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
            raise Unsafe(f"{where} lies in other files, which were not opened; copy its values into this one")
        dtype, swapped = self._dtype(dataset, where)
        space = dataset.get_space()
        if space.get_simple_extent_type() not in (h5py.h5s.SCALAR, h5py.h5s.SIMPLE):
            raise UnknownFormat(f"{where} has no shape")
        shape = tuple(int(axis) for axis in space.get_simple_extent_dims())
        nbytes = math.prod(shape) * dataset.get_type().get_size()
        self._nbytes += nbytes
        self._budget.check("nbytes", self._nbytes, where)
        offset = None
        if layout == h5py.h5d.CONTIGUOUS and nbytes:
            offset = dataset.get_offset()
            if offset is None or offset + nbytes > self._source.size or dataset.get_storage_size() < nbytes:
                raise Damaged(
                    f"{where} declares {nbytes:,} bytes of {shape!s:.100}, which the file does not hold", where
                )
        elif layout == h5py.h5d.CHUNKED and nbytes:
            chunk, filters, chunks = self._chunks(dataset, plan, (nbytes, shape), where)
            return Found(dtype, shape, None, swapped, chunk, filters, chunks)
        elif nbytes:
            raise UnknownFormat(f"{where} lies within the header of its dataset, which is not read here; repack it")
        return Found(dtype, shape, offset, swapped)

    def _chunks(self, dataset: Any, plan: Any, size: tuple[int, tuple[int, ...]], where: str) -> Any:
        """The chunks of a dataset, each of which the file holds; filters that are not known are refused."""
        nbytes, shape = size
        filters = tuple(plan.get_filter(index)[0] for index in range(plan.get_nfilters()))
        if filters not in ((), (GZIP,), (SHUFFLE,), (SHUFFLE, GZIP)):
            raise UnknownFormat(f"{where} is packed by filters {filters!s:.100} that are not known here; repack it")
        chunk = tuple(int(axis) for axis in plan.get_chunk())
        one = math.prod(chunk) * dataset.get_type().get_size()
        self._budget.check("nbytes", nbytes + 2 * one, f"{where}, with room for a chunk")
        if one > 4 * nbytes + (1 << 20):
            raise Damaged(f"{where} has chunks of {one:,} bytes for {nbytes:,}", where)
        count = math.prod(-(-axis // step) for axis, step in zip(shape, chunk, strict=True))
        if count > self._budget.entries:
            raise LimitExceeded(f"{where} has {count:,} chunks; raise the budget: Budget(entries={count})")
        chunks: list[tuple[tuple[int, ...], int, int, int]] = []

        def look_at(info: Any) -> None:
            place = tuple(int(axis) for axis in info.chunk_offset)
            if len(chunks) < count and info.byte_offset is not None:
                chunks.append((place, int(info.byte_offset), int(info.size), int(info.filter_mask)))

        dataset.chunk_iter(look_at)
        if len({place for place, *_ in chunks}) != count:
            raise Damaged(
                f"{where} declares {nbytes:,} bytes in {count:,} chunks, and {len(chunks):,} are there", where
            )
        if any(offset + length > self._source.size for _, offset, length, _ in chunks):
            raise Damaged(f"{where} has chunks past the end of the file", where)
        return chunk, filters, tuple(chunks)

    def _dtype(self, dataset: Any, where: str) -> tuple[str, bool]:
        """The logical dtype of a dataset, and whether its values are big-endian."""
        import h5py

        marked = read_text(h5py.Dataset(dataset), "dtype", self._source, self._budget)
        if marked in _RAW and dataset.get_type().get_size() == (2 if marked == "bfloat16" else 1):
            return marked, False
        return _number(dataset.get_type(), where)


def _number(kind: Any, where: str) -> tuple[str, bool]:
    """The logical dtype of a type of HDF5, and whether it is big-endian."""
    import h5py

    family = kind.get_class()
    if family not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM):
        raise UnknownFormat(f"{where} holds text, objects or records, which are no weights")
    if family == h5py.h5t.ENUM and (kind.get_nmembers() != 2 or kind.get_size() != 1):
        raise UnknownFormat(f"{where} holds an enumeration, which is no weight")
    dtype = np.dtype(kind.dtype)
    if dtype.itemsize != kind.get_size() or not kind.equal(h5py.h5t.py_create(dtype, logical=True)):
        raise UnknownFormat(f"{where} holds numbers of a kind that numpy does not have")
    try:
        return logical_name(np.empty(0, dtype)), dtype.byteorder == ">"
    except UnsupportedState:
        raise UnknownFormat(f"{where} holds values of dtype {dtype!s:.80}, which are no weights") from None
