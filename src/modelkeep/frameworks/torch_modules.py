"""The state of a torch module: its ``state_dict``, nested by submodule."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from modelkeep.errors import UnsupportedState
from modelkeep.frameworks import trees
from modelkeep.frameworks.mismatch import Array, Path, Plan, Spec, leaves, nest, show
from modelkeep.frameworks.torch_stateful import as_before, plain_numbers
from modelkeep.frameworks.torch_tensors import check_dense, dtype_of, from_numpy, to_numpy


def module_state(module: torch.nn.Module, read_leaf: trees.ReadLeaf, path: Path) -> dict[str | int, Any]:
    """Return parameters, persistent buffers and extra state by submodule; tied tensors share one array.

    Raises:
        UnsupportedState: a tensor or an extra state that cannot be kept.
    """
    values = module.state_dict(keep_vars=True)
    arrays: dict[int, Array] = {}
    found: dict[Path, object] = {}
    for key, below in _paths(values).items():
        value = values[key]
        if not isinstance(value, torch.Tensor):
            found[below] = trees.read(plain_numbers(value), read_leaf, (*path, *below))
            continue
        if id(value) not in arrays:
            arrays[id(value)] = _read(value, (*path, *below))
        found[below] = arrays[id(value)]
    return nest(found)


def plan_module(module: torch.nn.Module, tree: object, path: Path, todo: Plan) -> None:
    """Plan to load a whole ``state_dict``; tied tensors must be given the same bits under each of their names."""
    values = module.state_dict(keep_vars=True)
    known = _paths(values)
    loaded: dict[str, Any] = {}
    for key, below in known.items():
        value, full = values[key], (*path, *below)
        try:
            found = _at(tree, below)
        except KeyError:
            todo.refuse(full, f"wanted {_described(value, full)}, not in the state")
            continue
        if not isinstance(value, torch.Tensor):
            loaded[key] = as_before(found, value)
            continue
        array = todo.array(_spec(value, full), found, full)
        if array is None:
            continue
        # load_state_dict writes all; this only makes sure that tied tensors are given the same.
        todo.write(value, array, full, _nothing)
        loaded[key] = array
    for below, found in leaves(tree).items():
        if not any(below[: len(prefix)] == prefix for prefix in _prefixes(below, known)):
            todo.refuse((*path, *below), f"not wanted, found {trees.kind_of(found)}")
    todo.do(lambda: _load(module, loaded))


def names_of(obj: object) -> list[str] | None:
    """The names in the ``state_dict`` of a module, looked for through what wraps it; None for another object."""
    obj = unwrapped(obj)
    return list(obj.state_dict(keep_vars=True)) if isinstance(obj, torch.nn.Module) else None


def unwrapped(obj: object) -> object:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``; else ``obj`` itself."""
    if isinstance(obj, DataParallel | DistributedDataParallel):
        return unwrapped(obj.module)
    if type(obj).__name__ == "OptimizedModule":  # torch.compile; to import its class takes half a second
        return unwrapped(vars(obj)["_modules"]["_orig_mod"])
    return obj


def nested(values: Mapping[str, Any]) -> dict[str | int, Any]:
    """A flat ``state_dict`` as `module_state` nests it.

    >>> nested({"layers.0.weight": 1, "head.bias": 2})
    {'layers': {0: {'weight': 1}}, 'head': {'bias': 2}}
    """
    return nest({below: values[key] for key, below in _paths(values).items()})


def _nothing() -> None:
    pass


def _load(module: torch.nn.Module, loaded: dict[str, Any]) -> None:
    tensors = {key: from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in loaded.items()}
    module.load_state_dict(tensors)


def _prefixes(below: Path, known: dict[str, Path]) -> Iterable[Path]:
    wanted = set(known.values())
    return (below[:n] for n in range(len(below) + 1) if below[:n] in wanted)


def _paths(keys: Iterable[str]) -> dict[str, Path]:
    # "layers.0.weight" -> ("layers", 0, "weight"); as they are where one key continues another, which does not nest.
    nested = {key: tuple(_segment(part) for part in key.split(".")) for key in keys}
    inner = {path[:n] for path in nested.values() for n in range(1, len(path))}
    if inner.isdisjoint(nested.values()):
        return dict(nested)
    return {key: (key,) for key in nested}


def _segment(part: str) -> str | int:
    return int(part) if part.isdecimal() and str(int(part)) == part else part


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        if not isinstance(tree, dict):
            raise KeyError(key)
        tree = tree[key]
    return tree


def _read(tensor: torch.Tensor, path: Path) -> Array:
    try:
        return to_numpy(tensor)
    except UnsupportedState as error:
        raise UnsupportedState(f"{show(path)}: {error}") from error


def _spec(tensor: torch.Tensor, path: Path) -> Spec:
    try:
        check_dense(tensor)
        return Spec(dtype_of(tensor), tuple(tensor.shape))
    except UnsupportedState as error:
        raise UnsupportedState(f"{show(path)}: {error}") from error


def _described(value: object, path: Path) -> str:
    return str(_spec(value, path)) if isinstance(value, torch.Tensor) else trees.kind_of(value)
