"""What is exported: a version or a checkpoint, its parts read when they are asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.budget import Budget
from modelkeep.errors import NotExact, UnsupportedState, UsageError
from modelkeep.model.load import Wish, architecture_of, load_version
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.canonical import canonical_json
from modelkeep.store import Store
from modelkeep.values import Json

Array = NDArray[Any]


@dataclass(frozen=True)
class Source:
    """One snapshot that holds a model. ``custom_objects`` are classes beyond Keras' own, for what builds it."""

    store: Store
    snapshot: Snapshot
    ref: str
    custom_objects: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def architecture(self) -> dict[str, Json]:
        """As it was described; of a torch module or jax pytree little more than ``framework``."""
        return architecture_of(self.store, self.snapshot, Budget())

    @property
    def framework(self) -> str:
        """``"keras"``, ``"torch"``, ``"flax"`` or ``"jax"``."""
        return str(self.architecture.get("framework", "keras"))

    @cached_property
    def tree(self) -> Any:
        """The weights as a tree of arrays, every byte checked."""
        return self.store.load(self.snapshot, select=["model/**"])["model"]

    @cached_property
    def tensors(self) -> dict[str, Array]:
        """The weights by name: a torch module's as in its ``state_dict``, else the path (``dense/kernel``)."""
        separator = "." if self.framework == "torch" else "/"
        found = {separator.join(map(str, keys)): value for keys, value in _leaves(self.tree, ())}
        for name, array in found.items():
            if not isinstance(array, np.ndarray):
                raise UnsupportedState(f"{self.ref}: {name} is a {type(array).__name__}, which no file of arrays holds")
        return found

    def part(self, name: str) -> Any:
        """A part of the state that is JSON or text, such as ``signature`` and ``card``; None where there is none."""
        return self.snapshot.structure.get(name) if isinstance(self.snapshot.structure, dict) else None

    def labels(self) -> dict[str, str]:
        """What a file says of itself: where it comes from, and its signature as JSON."""
        signature = self.part("signature")
        told = {} if signature is None else {"signature": canonical_json(signature).decode()}
        return {"modelkeep": self.ref, "snapshot": self.snapshot.id, **told}

    @cached_property
    def model(self) -> Any:
        """The Keras model; see `build`."""
        return self.build()

    def build(self, *, compiled: bool = True) -> Any:
        """Build the Keras model, compiled as it was kept.

        Raises:
            UsageError: it is no Keras model.
        """
        if self.framework != "keras":
            raise UsageError(
                f"{self.ref} is a {self.framework} model, and only Keras models have this format; export it to "
                "safetensors, huggingface, torch or npz"
            )
        wish = Wish(self.custom_objects, compiled=compiled and self.architecture.get("compile") is not None)
        return load_version(self.store, self.snapshot, wish)


def compare(wanted: Mapping[str, Array], found: Mapping[str, Array], where: str) -> None:
    """Raise NotExact where arrays that were read back are not, bit for bit, those that were written."""
    if wanted.keys() != found.keys():
        names = sorted(wanted.keys() ^ found.keys())
        raise NotExact(f"{where}: read back, it does not hold the same tensors: {', '.join(names[:8])}")
    for name, array in wanted.items():
        other = found[name]
        if (array.dtype, array.shape) != (other.dtype, other.shape) or array.tobytes() != other.tobytes():
            raise NotExact(f"{where}: read back, {name} is not the {array.dtype} {list(array.shape)} that was written")


def _leaves(tree: Any, keys: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, (*keys, key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _leaves(value, (*keys, index))
    elif tree is not None:
        yield keys, tree
