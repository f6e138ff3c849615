"""Orbax checkpoints, through the tensorstore that Orbax brings along: where to look stands here, not in the folder."""

import json
import os
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, UnknownFormat, Unsafe, UsageError
from modelkeep.importers.folder import check_member, open_member, read_json
from modelkeep.importers.weights import Catalogue, Weights
from modelkeep.values import Json

FORMAT = "orbax"
_TREE, _STEP, _ITEM = "_METADATA", "_CHECKPOINT_METADATA", "default"
_OPTIMIZERS = ("opt_state", "optimizer", "optimizer_state")


def looks_like(names: list[str]) -> bool:
    """Whether a folder with these names is an item of Orbax, or a step with one."""
    return _TREE in names or (_STEP in names and _ITEM in names)


def read_folder(folder: str, budget: Budget) -> Weights:
    """The arrays of an item (``step/default``), or of a step with that item; names are joined by ``/``.

    Raises:
        Unsafe: a symbolic link in it.
        UsageError: Orbax, whose tensorstore is needed, is not installed.
        Damaged: it cannot be read; Orbax itself keeps no checksum of values.
        LimitExceeded: more than the budget allows.
    """
    folder = os.path.abspath(folder)
    if not os.path.lexists(os.path.join(folder, _TREE)):
        folder = os.path.join(folder, _ITEM)
    _refuse_links(folder, budget)
    try:
        import tensorstore
    except ImportError:
        raise UsageError(f"{folder}: reading this needs Orbax; pip install orbax-checkpoint") from None
    document = read_json(open_member(folder, _TREE), budget)
    leaves = document.get("tree_metadata") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(leaves, dict):
        raise Damaged(f"{folder}: its {_TREE} describes no tree", folder)
    catalogue = Catalogue(folder, budget)
    not_read: list[Json] = []
    for leaf in leaves.values():
        keys, kind = _leaf(leaf, folder)
        if kind not in ("jax.Array", "np.ndarray", "scalar"):
            not_read.append("/".join(keys))
            continue
        store = _open(tensorstore, _spec(folder, keys, document), folder)
        dtype, shape = str(store.dtype.name), tuple(int(axis) for axis in store.shape)
        catalogue.add("/".join(keys), dtype, shape, partial(_read, store, folder, dtype))
    top = [name for name in _OPTIMIZERS if any(key.startswith(f"{name}/") for key in catalogue.names())]
    return catalogue.weights(FORMAT, {"optimizer": f"{top[0]}/" if top else "", "not_read": not_read})


def _leaf(leaf: Json, folder: str) -> tuple[list[str], str]:
    """The keys that lead to a leaf, and its kind."""
    try:
        assert isinstance(leaf, dict)
        steps, value = leaf["key_metadata"], leaf["value_metadata"]
        assert isinstance(steps, list)
        assert isinstance(value, dict)
        keys = [step["key"] for step in steps]  # type: ignore[index,call-overload] # what fails is caught
        assert all(isinstance(key, str) for key in keys)
        return [str(key) for key in keys], str(value.get("value_type"))
    except (AssertionError, KeyError, TypeError):
        raise Damaged(f"{folder}: its {_TREE} has a leaf without keys and kind", folder) from None


def _spec(folder: str, keys: list[str], document: dict[str, Json]) -> dict[str, Any]:
    name = ".".join(keys)
    driver = "zarr3" if document.get("use_zarr3") else "zarr"
    if os.path.lexists(os.path.join(folder, "manifest.ocdbt")):
        base = {"driver": "file", "path": f"{folder}/"}
        return {"driver": driver, "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}
    return {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/{check_member(name, folder)}/"}}


def _open(tensorstore: Any, spec: dict[str, Any], folder: str) -> Any:
    try:
        return tensorstore.open(spec, open=True, read=True).result()
    except (ValueError, RuntimeError, OSError, json.JSONDecodeError) as error:
        raise Damaged(f"{folder}: an array cannot be opened: {error!s:.300}", folder) from None


def _read(store: Any, folder: str, dtype: str) -> NDArray[Any]:
    try:
        array = np.asarray(store.read().result())
    except (ValueError, RuntimeError, OSError) as error:
        raise Damaged(f"{folder}: an array cannot be read: {error!s:.300}", folder) from None
    if array.dtype.name != dtype:
        raise UnknownFormat(f"{folder}: an array of {array.dtype} where {dtype} was declared")
    return np.ascontiguousarray(array).reshape(array.shape)


def _refuse_links(folder: str, budget: Budget) -> None:
    count = 0
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            count += 1
            budget.check("entries", count, folder)
            if os.path.islink(os.path.join(place, name)):
                raise Unsafe(
                    f"{place}/{name}: a link in a checkpoint is not followed; copy the file itself there (cp -L)"
                )
