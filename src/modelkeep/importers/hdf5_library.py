"""What h5py says of a file: runs in a child, see `modelkeep.hdf5_child`."""

from dataclasses import asdict
from typing import Any

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, ModelkeepError, UsageError
from modelkeep.importers.hdf5_texts import read_text, read_texts
from modelkeep.importers.hdf5_walk import walk
from modelkeep.importers.source import Source, stream

MODEL = "model_weights"
_TEXTS = ("model_config", "training_config", "keras_version", "backend")
# what h5py raises for files that are damaged: it is not documented, and depends on where the damage is
_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError)


def structure(source: Source, budget: Budget) -> dict[str, Any]:
    """The datasets by path (see `hdf5_walk.Found`), the texts, and layer and variable of each legacy weight.

    Raises: as `modelkeep.importers.hdf5.read_file`.
    """
    try:
        import h5py
    except ImportError:
        raise UsageError(f"{source.name}: reading HDF5 needs h5py; pip install 'modelkeep[import]'") from None
    try:
        with h5py.File(stream(source), "r") as file:
            found = walk(file, source, budget)
            texts = {name: text for name in _TEXTS if (text := read_text(file, name, source, budget)) is not None}
            root = file[MODEL] if MODEL in file and "layer_names" not in file.attrs else file
            legacy = "layer_names" in root.attrs or "layer_names0" in root.attrs
            layers = _read_layers(root, source, budget) if legacy else None
    except ModelkeepError:
        raise
    except _ERRORS as error:
        raise Damaged(f"{source.name}: HDF5 cannot read it: {error!s:.200}", source.name) from None
    return {"found": {path: asdict(item) for path, item in found.items()}, "texts": texts, "layers": layers}


def _read_layers(root: Any, source: Source, budget: Budget) -> list[tuple[str, str]]:
    """Layer and variable of each weight, in the order in which Keras gives them."""
    layers: list[tuple[str, str]] = []
    for layer in read_texts(root, "layer_names", source, budget):
        if any(part in ("", ".", "..") for part in layer.split("/")):
            raise Damaged(f"{source.name}: {layer!r:.200} is no name of a layer", source.name)
        names = read_texts(root[layer], "weight_names", source, budget)
        layers += [(layer, name) for name in names]
        budget.check("entries", len(layers), source.name)
    return layers
