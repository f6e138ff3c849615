"""Which format a file or folder has, by its bytes: a suffix is only what somebody called it."""

import os

from modelkeep.budget import Budget
from modelkeep.errors import UnknownFormat
from modelkeep.importers import safetensors
from modelkeep.importers.folder import list_names
from modelkeep.importers.source import File, read_bytes
from modelkeep.importers.weights import Weights

_UNDERSTOOD = (
    "understood are: safetensors (one file, an index with its shards, a Hugging Face folder)"
)


def open_weights(path: str | os.PathLike[str], budget: Budget | None = None) -> Weights:
    """The tensors of a file or folder in any format that is understood; nothing is read yet but names and shapes.

    Nothing in the file is executed or unpickled, no path that it names is opened, and what it declares is compared
    with ``budget`` (by default `Budget()`) and with the file's size before anything is allocated.

    Raises:
        UnknownFormat: not a format that is understood; the message lists them.
        Unsafe: the file would run code, or open what it names; the message has the way out.
        Damaged: bytes are missing, added or changed.
        LimitExceeded: it declares more than the budget allows.
        NotFound: there is no such file, or a part of it is missing.

    >>> import tempfile, pathlib, numpy as np
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> np.savez(folder / "w.npz", kernel=np.ones((2, 3), np.float32))
    >>> weights = open_weights(folder / "w.npz")
    >>> weights.format, weights.tensors["kernel"]
    ('npz', Tensor(dtype='float32', shape=(2, 3), nbytes=24))
    >>> weights.tensors["kernel"].read().sum().item()
    6.0
    """
    place, budget = os.fspath(path), budget or Budget()
    if os.path.isdir(place):
        return _open_folder(place, budget)
    return _open_file(File(place), budget)


def _open_file(source: File, budget: Budget) -> Weights:
    head = read_bytes(source, 0, min(64, source.size))
    if head[:1] == b"{":
        return safetensors.read_index(source, os.path.dirname(source.name), budget)
    if safetensors.looks_like(head):
        return safetensors.read_file(source, budget)
    raise UnknownFormat(f"{source.name}: the format of this file is not known; {_UNDERSTOOD}")


def _open_folder(folder: str, budget: Budget) -> Weights:
    names = list_names(folder, budget)
    if any(name.endswith((".safetensors", safetensors.INDEX_SUFFIX)) for name in names):
        return safetensors.read_folder(folder, names, budget)
    raise UnknownFormat(f"{folder}: the format of this folder is not known; {_UNDERSTOOD}")
