"""Which format a file or folder has, by its bytes: a suffix is only what somebody called it."""

import os
from dataclasses import replace

from modelkeep.budget import Budget
from modelkeep.errors import UnknownFormat, Unsafe
from modelkeep.importers import archive, hdf5, keras, npz, onnx, orbax, pickles, safetensors, tensorflow, torch
from modelkeep.importers.folder import list_names, open_member, read_text
from modelkeep.importers.index import SUFFIXES, read_index
from modelkeep.importers.source import File, read_bytes
from modelkeep.importers.weights import Weights
from modelkeep.values import Json

_UNDERSTOOD = (
    "understood are .keras, .h5 and .weights.h5, .safetensors, .npz and .npy, state dicts of torch.save, TensorFlow "
    "checkpoints, ONNX, indexes of shards, and folders: Hugging Face, SavedModel, Keras, Orbax"
)
_SINGLE = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".keras", ".npz", ".onnx")
_CONFIGS = ("config.json", "generation_config.json", "model_index.json", "adapter_config.json")


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
    if not os.path.exists(place) and os.path.exists(f"{place}.index"):
        place = f"{place}.index"  # TensorFlow names a checkpoint without the suffixes of its files
    source = File(place)
    if read_bytes(source, 0, min(1, source.size)) == b"{":
        return read_index(source, os.path.dirname(place) or ".", budget, _open_file)
    return _open_file(source, budget)


def _open_file(source: File, budget: Budget) -> Weights:
    """The tensors of one file that is no index."""
    head = read_bytes(source, 0, min(64, source.size))
    if head.startswith(hdf5.SIGNATURE):
        return hdf5.read_file(source, budget)
    if head.startswith(archive.SIGNATURE):
        return _open_zip(source, budget)
    if head.startswith(npz.MAGIC):
        return npz.read_npy(source, budget)
    if torch.looks_like_legacy(head):
        return torch.read_legacy(source, budget)
    if pickles.looks_like(head):
        raise pickles.refusal(source.name, pickles.first_global(read_bytes(source, 0, min(source.size, 1 << 16))))
    if safetensors.looks_like(head):
        return safetensors.read_file(source, budget)
    folder, name = os.path.split(source.name)
    if tensorflow.looks_like(source):
        return tensorflow.read_checkpoint(source, folder or ".", name.removesuffix(".index"), budget)
    if archive.looks_like(source):
        raise Unsafe(f"{source.name}: something else stands before its zip archive: it is two files in one")
    if onnx.looks_like(source):
        return onnx.read_file(source, folder or ".", budget)
    raise UnknownFormat(f"{source.name}: the format of this file is not known; {_UNDERSTOOD}")


def _open_zip(source: File, budget: Budget) -> Weights:
    members = archive.read_directory(source, budget)
    if torch.root_of(members):
        return torch.read_zip(source, members, budget)
    if keras.WEIGHTS in members:
        return keras.read_zip(source, members, budget)
    if members and all(name.endswith(".npy") for name in members):
        return npz.read_npz(source, members, budget)
    raise UnknownFormat(
        f"{source.name}: a zip file with {', '.join(list(members)[:5])!r:.200} is none that is known; {_UNDERSTOOD}"
    )


def _open_folder(folder: str, budget: Budget) -> Weights:
    names = list_names(folder, budget)
    if "saved_model.pb" in names or ("variables" in names and "keras_metadata.pb" in names):
        return tensorflow.read_saved_model(folder, budget)
    if keras.WEIGHTS in names:
        return keras.read_folder(folder, names, budget)
    if orbax.looks_like(names):
        return orbax.read_folder(folder, budget)
    indexes = [name for name in names if name.endswith(SUFFIXES)]
    checkpoints = [name for name in names if name.endswith(".index")]
    files = [name for name in names if name.endswith(_SINGLE)]
    safe = [name for name in files if name.endswith(".safetensors")]  # the same weights often lie there twice
    found = next((kind for kind in (indexes, checkpoints, safe, files) if kind), [])
    if len(found) != 1:
        several = f"it holds {', '.join(found)!r:.300}, so name the one that is meant" if found else _UNDERSTOOD
        raise UnknownFormat(f"{folder}: the format of this folder is not known; {several}")
    source = open_member(folder, found[0])
    weights = read_index(source, folder, budget, _open_file) if indexes else _open_file(source, budget)
    texts: dict[str, Json] = {name: read_text(open_member(folder, name), budget) for name in _CONFIGS if name in names}
    return replace(weights, metadata={**weights.metadata, **texts})
