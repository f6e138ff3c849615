"""HDF5 as Keras writes it: legacy ``.h5`` of Keras 1 to 3, and ``.weights.h5`` of Keras 3; other files by their paths.

h5py reads the structure; values that lie in one run are read from the file directly, so that what they take is known.
"""

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, ModelkeepError, UsageError
from modelkeep.importers.hdf5_texts import read_text, read_texts
from modelkeep.importers.hdf5_walk import Found, walk
from modelkeep.importers.source import Source, stream
from modelkeep.importers.weights import Catalogue, Weights, read_raw
from modelkeep.snapshot.dtypes import numpy_dtype
from modelkeep.values import Json

FORMAT = "hdf5"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_TEXTS = ("model_config", "training_config", "keras_version", "backend")
_MODEL, _OPTIMIZER = "model_weights/", "optimizer_weights/"
# what h5py raises for files that are damaged: it is not documented, and depends on where the damage is
_ERRORS = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    MemoryError,
    OverflowError,
)


def read_file(source: Source, budget: Budget) -> Weights:
    """The datasets of a file; those of a legacy Keras file by layer and variable.

    Raises:
        Unsafe: links, or values that lie outside this file.
        Damaged: HDF5 cannot read it, it declares what it does not hold, or groups hold themselves.
        UnknownFormat: datasets of text, objects or compound values, or filters that are not known.
        LimitExceeded: more than the budget allows.
        UsageError: h5py is not installed.
    """
    with _opened(source) as file:
        found = walk(file, source, budget)
        metadata: dict[str, Json] = {
            name: text for name in _TEXTS if (text := read_text(file, name, source, budget)) is not None
        }
        root = file["model_weights"] if _MODEL.rstrip("/") in file and "layer_names" not in file.attrs else file
        legacy = "layer_names" in root.attrs or "layer_names0" in root.attrs
        layers = _read_layers(root, source, budget) if legacy else []
    catalogue = Catalogue(source.name, budget)
    prefix = _MODEL if any(path.startswith(_MODEL) for path in found) and legacy else ""
    order = {f"{prefix}{layer}/{name}": index for index, (layer, name) in enumerate(layers)}
    for path, item in (
        sorted(found.items(), key=lambda pair: order.get(pair[0], len(order))) if legacy else found.items()
    ):
        name = _short_name(path, prefix) if legacy else path
        catalogue.add(name, item.dtype, item.shape, partial(_read, source, path, item))
    if legacy:
        metadata["layers"] = [list(pair) for pair in layers]
    metadata["optimizer"] = "optimizer/" if any(name.startswith("optimizer/") for name in catalogue.names()) else ""
    return catalogue.weights("keras-h5" if legacy else FORMAT, metadata)


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Any]:
    """The file open in h5py; whatever h5py raises becomes Damaged."""
    try:
        import h5py
    except ImportError:
        raise UsageError(f"{source.name}: reading HDF5 needs h5py; pip install 'modelkeep[import]'") from None
    try:
        with h5py.File(stream(source), "r") as file:
            yield file
    except ModelkeepError:
        raise
    except _ERRORS as error:
        raise Damaged(f"{source.name}: HDF5 cannot read it: {error!s:.200}", source.name) from None


def _read(source: Source, path: str, item: Found) -> NDArray[Any]:
    """The values of a dataset."""
    if item.offset is not None:
        array = read_raw(source, item.offset, item.dtype, item.shape)
        return array.byteswap() if item.swapped else array
    with _opened(source) as file:
        array = np.empty(item.shape, numpy_dtype(item.dtype))
        dataset = file[path]
        if dataset.shape != item.shape:
            raise Damaged(f"{source.name}: {path!r:.200} has changed while it was read", source.name)
        if array.size:
            dataset.read_direct(array)
        return array


def _read_layers(root: Any, source: Source, budget: Budget) -> list[tuple[str, str]]:
    """Layer and variable of each weight, in the order in which Keras gives them."""
    layers: list[tuple[str, str]] = []
    for layer in read_texts(root, "layer_names", source, budget):
        if "/" in layer.strip("/") and layer not in root:
            continue
        names = read_texts(root[layer], "weight_names", source, budget)
        layers += [(layer, name) for name in names]
        budget.check("entries", len(layers), source.name)
    return layers


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
