"""Whatever a transfer may take from, as tensors by name, and what is remembered of where they come from."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from modelkeep.errors import UsageError
from modelkeep.importers import open_weights
from modelkeep.snapshot import Snapshot
from modelkeep.state.tree import flatten
from modelkeep.store import Store, Version
from modelkeep.store.resolve import snapshot_and_version
from modelkeep.values import Json, Ref


@dataclass(frozen=True, slots=True)
class Opened:
    """The tensors of a source by name, and its origin as JSON; an empty one for arrays of the caller's own."""

    tensors: Mapping[str, Any]
    origin: Mapping[str, Json]


def open_file(path: str | os.PathLike[str]) -> Opened:
    """The weights of a foreign file or folder, none of them read yet. Raises what `open_weights` raises.

    The origin has the file's name and BLAKE3 (of a folder the name alone).
    """
    weights = open_weights(path)
    return Opened(dict(weights.model()), origin_of(path, weights.format))


def origin_of(path: str | os.PathLike[str], form: str) -> dict[str, Json]:
    """The name and format of a foreign file, and its BLAKE3 where it is no folder."""
    place = os.fspath(path)
    origin: dict[str, Json] = {"file": os.path.basename(os.path.normpath(place)), "format": form}
    if os.path.isfile(place):
        origin["blake3"] = blake3(max_threads=blake3.AUTO).update_mmap(place).hexdigest()
    return origin


def open_kept(store: Store, source: Ref | Snapshot | Version) -> Opened:
    """The weights of a version or of a checkpoint, each checked while it is read.

    Raises:
        NotFound: there is none.
        UsageError: it holds no weights of a model.
        Damaged: bytes are not those that were written.
    """
    snapshot, version = snapshot_and_version(store, source)
    if not isinstance(snapshot.structure, dict) or snapshot.structure.get("model") is None:
        raise UsageError(
            f"snapshot {snapshot.short} holds no model but a state; pass its arrays by name: keep.load_state(...)"
        )
    arrays = flatten(store.load(snapshot, select=["model/**"])["model"]).arrays
    origin: dict[str, Json] = {"keep": store.id, "snapshot": snapshot.id}
    if version is not None:
        origin |= {"model": version.model, "version": version.number}
    elif snapshot.meta.get("run"):
        origin |= {"run": snapshot.meta["run"], "step": snapshot.meta.get("step")}
    return Opened(arrays, origin)


def open_object(source: Any) -> Opened:
    """Arrays by name as they are; the weights of a Keras model or of a torch module that is in memory.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(source, Mapping):
        return Opened(source, {})
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    if keras is not None and isinstance(source, keras.Model):
        from modelkeep.frameworks import keras as keras_door

        return Opened(flatten(keras_door.state_of(source)["model"]).arrays, {"object": type(source).__name__})
    if torch is not None and isinstance(source, torch.nn.Module):
        from modelkeep.frameworks import torch as torch_door

        return Opened(flatten(torch_door.state_of(source)).arrays, {"object": type(source).__name__})
    raise UsageError(
        "a source is a REF such as 'digits@3', a file, a mapping of names to arrays, a Keras model or a torch module, "
        f"not {type(source).__name__}"
    )
