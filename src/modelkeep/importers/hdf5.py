"""HDF5 as Keras writes it: legacy ``.h5`` of Keras 1 to 3, and ``.weights.h5`` of Keras 3; other files by their paths.

HDF5's library tells the structure, in a process of its own; values are read from the file directly, so that what they
take is known, and chunks are unpacked here.
"""

import re
import zlib
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.budget import Budget
from modelkeep.errors import Damaged
from modelkeep.hdf5_child import ask
from modelkeep.importers.hdf5_walk import GZIP, SHUFFLE, Found
from modelkeep.importers.source import Source, read_bytes
from modelkeep.importers.weights import Catalogue, Weights, read_raw
from modelkeep.snapshot.dtypes import numpy_dtype
from modelkeep.values import Json

FORMAT = "hdf5"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_STRUCTURE = "modelkeep.importers.hdf5_library:structure"
_MODEL, _OPTIMIZER = "model_weights/", "optimizer_weights/"


def read_file(source: Source, budget: Budget) -> Weights:
    """The datasets of a file; those of a legacy Keras file by layer and variable.

    Raises:
        Unsafe: links, or values that lie outside this file.
        Damaged: HDF5 cannot read it, it declares what it does not hold, or groups hold themselves.
        UnknownFormat: datasets of text, objects or compound values, or filters that are not known.
        LimitExceeded: more than the budget allows.
        UsageError: h5py is not installed.
    """
    structure = ask(_STRUCTURE, source.name, source.size, partial(read_bytes, source), budget)
    found = {path: Found.of(item) for path, item in structure["found"].items()}
    metadata: dict[str, Json] = dict(structure["texts"])
    legacy, layers = structure["layers"] is not None, structure["layers"] or []
    catalogue = Catalogue(source.name, budget)
    prefix = _MODEL if any(path.startswith(_MODEL) for path in found) and legacy else ""
    order = {f"{prefix}{layer}/{name}": index for index, (layer, name) in enumerate(layers)}
    for path, item in (
        sorted(found.items(), key=lambda pair: order.get(pair[0], len(order))) if legacy else found.items()
    ):
        name = _short_name(path, prefix) if legacy else path
        catalogue.add(name, item.dtype, item.shape, partial(_read, source, path, item))
    if legacy:
        metadata["layers"] = [[layer, _short_name(f"{prefix}{layer}/{name}", prefix)] for layer, name in layers]
    metadata["optimizer"] = "optimizer/" if any(name.startswith("optimizer/") for name in catalogue.names()) else ""
    return catalogue.weights("keras-h5" if legacy else FORMAT, metadata)


def _read(source: Source, path: str, item: Found) -> NDArray[Any]:
    """The values of a dataset."""
    if item.chunk is None:
        array = read_raw(source, item.offset or 0, item.dtype, item.shape)
    else:
        array = _read_chunks(source, path, item)
    return array.byteswap() if item.swapped else array


def _read_chunks(source: Source, path: str, item: Found) -> NDArray[Any]:
    """The values of a dataset in chunks; those at its edges are stored whole, with what lies beyond."""
    assert item.chunk is not None
    array = np.empty(item.shape, numpy_dtype(item.dtype))
    for place, offset, size, skipped in item.chunks:
        if any(start >= axis or start % step for start, axis, step in zip(place, item.shape, item.chunk, strict=True)):
            raise Damaged(f"{source.name}: {path!r:.200} has a chunk at {place}, where it has no place", source.name)
        data = _unpacked(read_bytes(source, offset, size), item, skipped, f"{source.name}: {path!r:.200}")
        values = np.frombuffer(data, array.dtype).reshape(item.chunk)
        inside = tuple(slice(start, start + step) for start, step in zip(place, item.chunk, strict=True))
        part = array[inside]
        part[...] = values[tuple(slice(axis) for axis in part.shape)]
    return array


def _unpacked(data: bytes, item: Found, skipped: int, where: str) -> bytes:
    """The bytes of one chunk: its filters undone, the last first. Raises Damaged where they are not as many as said."""
    assert item.chunk is not None
    itemsize = numpy_dtype(item.dtype).itemsize
    nbytes = int(np.prod(item.chunk, dtype=object)) * itemsize
    for index, code in reversed([*enumerate(item.filters)]):
        if skipped >> index & 1:
            continue
        if code == GZIP:
            unpacker = zlib.decompressobj()
            try:
                data = unpacker.decompress(data, nbytes + 1)
            except zlib.error as error:
                raise Damaged(f"{where} has a chunk that cannot be unpacked: {error}", where) from None
        elif code == SHUFFLE and len(data) == nbytes:
            data = np.frombuffer(data, np.uint8).reshape(itemsize, -1).T.tobytes()
    if len(data) != nbytes:
        raise Damaged(f"{where} has a chunk that does not unpack to its {nbytes:,} bytes", where)
    return data


def _short_name(path: str, prefix: str) -> str:
    """``dense/dense/kernel:0`` is ``dense/kernel``; what belongs to the optimizer begins with ``optimizer/``.

    >>> _short_name("model_weights/dense/dense/kernel:0", "model_weights/"), _short_name("d/d_W", "")
    ('dense/kernel', 'd/d_W')
    """
    if path.startswith(_OPTIMIZER):
        path = path.removeprefix(_OPTIMIZER)
        return "optimizer/" + re.sub(r":0$", "", path)
    layer, _, name = path.removeprefix(prefix).partition("/")
    short = name if name.startswith(f"{layer}/") else f"{layer}/{name}"
    return re.sub(r":0$", "", short)
