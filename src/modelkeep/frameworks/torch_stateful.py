"""Objects that describe themselves by ``state_dict``: schedulers, gradient scalers, stateful data loaders."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from modelkeep.frameworks import trees
from modelkeep.frameworks.mismatch import Path, Plan
from modelkeep.frameworks.torch_tensors import from_numpy


@runtime_checkable
class Stateful(Protocol):
    """What torch expects of an object that can be checkpointed."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that has to be kept."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Take it back."""
        ...


def stateful_state(obj: Stateful, read_leaf: trees.ReadLeaf, path: Path) -> Any:
    """Return what ``state_dict`` says, with arrays for tensors and Python numbers for numpy scalars."""
    return trees.read(plain_numbers(obj.state_dict()), read_leaf, path)


def plan_stateful(obj: Stateful, tree: object, path: Path, todo: Plan) -> None:
    """Plan ``load_state_dict``; the entries at the top must be those that the object has now."""
    now = obj.state_dict()
    if not isinstance(tree, Mapping):
        todo.refuse(path, f"wanted a dict for a {type(obj).__name__}, found {trees.kind_of(tree)}")
        return
    for key in now:
        if key not in tree:
            todo.refuse((*path, key), f"wanted by a {type(obj).__name__}, not in the state")
    for key in tree:
        if key not in now:
            todo.refuse((*path, key), f"not wanted by a {type(obj).__name__}, found {trees.kind_of(tree[key])}")
    todo.do(lambda: obj.load_state_dict(as_before(tree, now)))


def as_before(tree: Any, now: Any) -> Any:
    """Return a state tree in the types that an object has now: arrays as tensors but where it holds arrays.

    >>> as_before({"milestones": {3: 1}}, {"milestones": Counter([3])})
    {'milestones': Counter({3: 1})}
    """
    if isinstance(tree, Mapping):
        known = now if isinstance(now, Mapping) else {}
        restored = {key: as_before(value, known.get(key)) for key, value in tree.items()}
        return Counter(restored) if isinstance(now, Counter) else restored
    if isinstance(tree, list | tuple):
        known_items = list(now) if isinstance(now, list | tuple) and len(now) == len(tree) else [None] * len(tree)
        items = [as_before(value, known) for value, known in zip(tree, known_items, strict=True)]
        return tuple(items) if isinstance(tree, tuple) else items
    if isinstance(tree, np.ndarray | np.generic):
        array = np.array(tree)
        return array if isinstance(now, np.ndarray) or array.dtype.kind in "OSUmM" else from_numpy(array)
    return tree


def plain_numbers(tree: Any) -> Any:
    """Return a state dict with numpy scalars as Python numbers: as arrays they would come back as tensors.

    >>> plain_numbers({"lr": np.float64(0.1)})
    {'lr': 0.1}
    """
    if isinstance(tree, Mapping):
        return {key: plain_numbers(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [plain_numbers(value) for value in tree]
        return tuple(items) if isinstance(tree, tuple) else items
    return tree.item() if isinstance(tree, np.generic) else tree
