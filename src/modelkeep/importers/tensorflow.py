"""TensorFlow checkpoints (``NAME.index`` and ``NAME.data-00000-of-00001``) and the variables of a SavedModel.

Read without TensorFlow: the index is a table of protocol buffers, the values lie as they are, and the checksums of both
are compared. The format: tensorflow/core/protobuf/tensor_bundle.proto
"""

import os
import re
import struct
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, UnknownFormat
from modelkeep.importers import protobuf
from modelkeep.importers.crc32c import crc32c, masked
from modelkeep.importers.folder import open_member
from modelkeep.importers.source import Memory, Source, read_bytes
from modelkeep.importers.sstable import looks_like, read_table
from modelkeep.importers.weights import Catalogue, Weights, array_bytes, read_raw
from modelkeep.values import Json

__all__ = ["looks_like", "read_checkpoint", "read_saved_model"]

CHECKPOINT, SAVED_MODEL = "tensorflow-checkpoint", "saved-model"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = re.compile(r"(.*)/\.OPTIMIZER_SLOT/(.*)")
_STRING = 7
_MAX_SHARDS = 10_000

# tensorflow/core/framework/types.proto; quantized kinds are the integers that hold them
_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64", 9: "int64", 10: "bool",
    11: "int8", 12: "uint8", 13: "int32", 14: "bfloat16", 15: "int16", 16: "uint16", 17: "uint16", 18: "complex128",
    19: "float16", 22: "uint32", 23: "uint64", 24: "float8_e5m2", 25: "float8_e4m3fn", 26: "float8_e4m3fnuz",
    27: "float8_e4m3b11fnuz", 28: "float8_e5m2fnuz", 29: "int4", 30: "uint4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a tensor lies: its shard, offset and bytes there, and the masked checksum of those."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool


def read_checkpoint(index: Source, folder: str, name: str, budget: Budget) -> Weights:
    """The tensors of a checkpoint whose index is ``index`` and whose data lie in ``folder`` as ``name.data-…``.

    Object-based names lose their ending (``model/kernel``), slots of an optimizer begin with ``optimizer/``. Texts are
    named in ``metadata["not_read"]``; ``metadata["full_names"]`` has the names that variables had in the program.

    Raises:
        Damaged: a checksum does not match, or a tensor lies past the end of its file.
        UnknownFormat: big-endian, sliced (partitioned) variables, dtypes that are not known.
        NotFound: a part of the data is missing.
        LimitExceeded: more than the budget allows.
    """
    header, entries = _read_index(index, budget)
    budget.check("entries", header, f"{index.name}: parts of the data")
    shards = [open_member(folder, f"{name}.data-{n:05}-of-{header:05}") for n in range(min(header, _MAX_SHARDS))]
    catalogue = Catalogue(index.name, budget)
    not_read: list[Json] = []
    texts: dict[str, str] = {}
    for key, entry in entries.items():
        if entry.sliced:
            raise UnknownFormat(f"{index.name}: the variable {key!r:.200} lies in slices, which are not read here")
        if entry.shard >= len(shards) or entry.offset + entry.size > shards[entry.shard].size:
            raise Damaged(f"{index.name}: {key!r:.200} lies past the end of its file", index.name)
        if key == _GRAPH:
            texts = _full_names(shards[entry.shard], entry, budget)
        elif entry.dtype == _STRING:
            not_read.append(key)
        else:
            _add(catalogue, key, entry, shards[entry.shard])
    slots = any(tensor.startswith("optimizer/") for tensor in catalogue.names())
    names: dict[str, Json] = {_short_name(key): text for key, text in texts.items()}
    return catalogue.weights(
        CHECKPOINT, {"optimizer": "optimizer/" if slots else "", "not_read": not_read, "full_names": names}
    )


def read_saved_model(folder: str, budget: Budget) -> Weights:
    """The variables of a SavedModel; its graph is not read, and nothing of it is run.

    Raises:
        NotFound: it has no variables; and what `read_checkpoint` raises.
    """
    inner = os.path.join(folder, "variables")
    index = open_member(folder, os.path.join("variables", "variables.index"))
    weights = read_checkpoint(index, inner, "variables", budget)
    return replace(weights, format=SAVED_MODEL)


def _add(catalogue: Catalogue, key: str, entry: _Entry, shard: Source) -> None:
    where = f"{catalogue.where}: {key!r:.200}"
    if entry.dtype not in _DTYPES:
        raise UnknownFormat(f"{where} has the dtype {entry.dtype} of TensorFlow, which is not known here")
    dtype = _DTYPES[entry.dtype]
    if array_bytes(dtype, entry.shape, where) != entry.size:
        raise Damaged(f"{where} has {entry.size:,} bytes, not what {entry.shape!s:.100} of {dtype} takes", where)
    catalogue.add(_short_name(key), dtype, entry.shape, partial(_read, shard, entry, dtype, key))


def _read(shard: Source, entry: _Entry, dtype: str, key: str) -> NDArray[Any]:
    array = read_raw(shard, entry.offset, dtype, entry.shape)
    if masked(crc32c(array.reshape(-1).view(np.uint8) if array.size else b"")) != entry.crc:
        raise Damaged(f"{shard.name}: the checksum of {key!r:.200} does not match", shard.name)
    return array


def _short_name(key: str) -> str:
    """The name of a key: slots of an optimizer come to stand under ``optimizer/``.

    >>> _short_name("model/w/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE")
    'optimizer/model/w/m'
    """
    key = key.removesuffix(_VALUE)
    slot = _SLOT.fullmatch(key)
    return f"optimizer/{slot[1]}/{slot[2].rpartition('/')[2]}" if slot else key


def _read_index(index: Source, budget: Budget) -> tuple[int, dict[str, _Entry]]:
    """The number of shards, and the entries by key."""
    shards, entries = 0, {}
    for key, value in read_table(index, budget):
        if not key:
            shards = _parse_header(Memory(value, index.name))
            continue
        try:
            name = key.decode()
        except UnicodeDecodeError:
            continue  # slices of partitioned variables; the variable itself says that it is sliced
        entries[name] = _parse_entry(Memory(value, f"{index.name}: {name!r:.200}"))
    if not shards:
        raise Damaged(f"{index.name}: the index of a checkpoint begins with the number of its parts; it has none")
    return shards, {name: entry for name, entry in entries.items() if name.isprintable()}


def _parse_header(value: Source) -> int:
    shards, big = 0, 0
    for number, wire, start, _ in protobuf.fields(value):
        if (number, wire) == (1, protobuf.VARINT):
            shards = start
        elif (number, wire) == (2, protobuf.VARINT):
            big = start
    if big:
        raise UnknownFormat(f"{value.name}: this checkpoint was written on a big-endian machine")
    return shards


def _parse_entry(value: Source) -> _Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0}
    shape: tuple[int, ...] = ()
    crc, sliced = 0, False
    for number, wire, start, stop in protobuf.fields(value):
        if wire == protobuf.VARINT and number in numbers:
            numbers[number] = start
        elif (number, wire) == (2, protobuf.BYTES):
            shape = _parse_shape(value, start, stop)
        elif (number, wire) == (6, protobuf.FIXED32):
            (crc,) = struct.unpack("<L", read_bytes(value, start, 4))
        elif number == 7:
            sliced = True
    if max(numbers.values()) >= 1 << 62:
        raise Damaged(f"{value.name}: it lies at a place that no file has", value.name)
    return _Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], crc, sliced)


def _parse_shape(value: Source, start: int, stop: int) -> tuple[int, ...]:
    axes: list[int] = []
    for number, wire, first, past in protobuf.fields(value, start, stop):
        if (number, wire) != (2, protobuf.BYTES):
            raise Damaged(f"{value.name}: it has no shape", value.name)
        size = [item for field, kind, item, _ in protobuf.fields(value, first, past) if (field, kind) == (1, 0)]
        axes.append(protobuf.signed(size[-1]) if size else 0)
    return tuple(axes)


def _full_names(shard: Source, entry: _Entry, budget: Budget) -> dict[str, str]:
    """Key -> the name that the variable had, out of the object graph that a checkpoint holds as one text."""
    budget.check("text", entry.size, shard.name)
    data = read_bytes(shard, entry.offset, entry.size)
    length, start = protobuf.varint(data, 0, shard.name)
    start += 4  # a checksum of the length
    if start + length != len(data):
        raise Damaged(f"{shard.name}: the object graph has not the length that it says", shard.name)
    graph = Memory(data[start:], f"{shard.name}: object graph")
    found: dict[str, str] = {}
    for number, wire, first, past in protobuf.fields(graph):
        if (number, wire) != (1, protobuf.BYTES):
            continue
        budget.check("entries", len(found) + 1, graph.name)
        for field, kind, begin, end in protobuf.fields(graph, first, past):
            if (field, kind) == (2, protobuf.BYTES):
                texts = {n: read_bytes(graph, a, b - a).decode("utf-8", "replace")
                         for n, w, a, b in protobuf.fields(graph, begin, end) if w == protobuf.BYTES}  # fmt: skip
                if texts.get(2) and texts.get(3):
                    found[texts[3]] = texts[2]
    return found
