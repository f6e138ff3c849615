"""Plain trees: dicts, lists and tuples around numpy arrays and generators, values, and a framework's own leaves."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from modelkeep.errors import UnsupportedState
from modelkeep.frameworks.generators import KINDS, generator_state, plan_generator
from modelkeep.frameworks.mismatch import Path, Plan, Spec, described, show

ReadLeaf = Callable[[object, Path], object]
"""Turns a leaf that is not plain into a tree; raises UnsupportedState when it cannot."""

PlanLeaf = Callable[[object, object, Path, Plan], None]
"""Plans how a leaf that is not plain takes what was found in the state."""

Put = Callable[[object], object]
"""Replaces a value in the container that holds it."""

VALUES = (bool, int, float, complex, str, bytes, type(None))
"""What a state holds besides arrays; subclasses (enums) would come back as another type."""


def read(obj: object, read_leaf: ReadLeaf, path: Path = ()) -> Any:
    """Return ``obj`` as a state tree that shares no memory with its numpy arrays."""
    if isinstance(obj, Mapping):
        return {key: read(value, read_leaf, (*path, key)) for key, value in obj.items()}
    if isinstance(obj, list):
        return [read(value, read_leaf, (*path, n)) for n, value in enumerate(obj)]
    if isinstance(obj, tuple):
        return tuple(read(value, read_leaf, (*path, n)) for n, value in enumerate(obj))
    if type(obj) in VALUES:
        return obj
    if isinstance(obj, np.ndarray | np.generic):
        return np.array(obj)
    if isinstance(obj, KINDS):
        return read(generator_state(obj), read_leaf, path)
    return read_leaf(obj, path)


def plan(obj: object, tree: object, plan_leaf: PlanLeaf, todo: Plan, path: Path = (), put: Put | None = None) -> None:
    """Plan how ``obj`` takes ``tree`` in place: arrays are written into, values replaced where a container holds them.

    ``put`` replaces ``obj`` itself in its container; None where that cannot be done (the root, or in a tuple).
    """
    if isinstance(obj, Mapping):
        _plan_dict(obj, tree, plan_leaf, todo, path)
    elif isinstance(obj, list | tuple):
        _plan_sequence(obj, tree, plan_leaf, todo, path)
    elif type(obj) in VALUES:
        _plan_value(obj, tree, todo, path, put)
    elif isinstance(obj, np.generic):
        _plan_scalar(obj, tree, todo, path, put)
    elif isinstance(obj, np.ndarray):
        _plan_array(obj, tree, todo, path)
    elif isinstance(obj, KINDS):
        plan_generator(obj, tree, todo, path)
    else:
        plan_leaf(obj, tree, path, todo)


def unsupported(obj: object, path: Path, way_out: str) -> UnsupportedState:
    """Return the error for a leaf that cannot be kept."""
    kind = type(obj)
    return UnsupportedState(f"{show(path)}: a {kind.__module__}.{kind.__qualname__} cannot be kept; {way_out}")


def kind_of(value: object) -> str:
    """Say in a message what a value of any kind is.

    >>> kind_of({}), kind_of(np.zeros(2)), kind_of(1)
    ('a dict', 'float64 [2]', 'a value of type int')
    """
    if isinstance(value, np.ndarray | np.generic):
        return described(value)
    name = type(value).__name__
    return f"a value of type {name}" if type(value) in VALUES else f"a {name}"


def _plan_dict(obj: Mapping[Any, Any], tree: object, plan_leaf: PlanLeaf, todo: Plan, path: Path) -> None:
    if not isinstance(tree, Mapping):
        todo.refuse(path, f"wanted a dict, found {kind_of(tree)}")
        return
    for key, value in obj.items():
        if key not in tree:
            todo.refuse((*path, key), f"wanted {kind_of(value)}, not in the state")
        else:
            put = _setter(obj, key) if isinstance(obj, dict) else None
            plan(value, tree[key], plan_leaf, todo, (*path, key), put)
    for key in tree:
        if key not in obj:
            todo.refuse((*path, key), f"not wanted, found {kind_of(tree[key])}")


def _plan_sequence(obj: Any, tree: object, plan_leaf: PlanLeaf, todo: Plan, path: Path) -> None:
    if not isinstance(tree, list | tuple) or len(tree) != len(obj):
        found = f"{len(tree)}" if isinstance(tree, list | tuple) else kind_of(tree)
        todo.refuse(path, f"wanted {len(obj)} items, found {found}")
        return
    for n, (value, found_value) in enumerate(zip(obj, tree, strict=True)):
        put = _setter(obj, n) if isinstance(obj, list) else None
        plan(value, found_value, plan_leaf, todo, (*path, n), put)


def _plan_value(obj: object, tree: object, todo: Plan, path: Path, put: Put | None) -> None:
    if type(tree) not in VALUES:
        todo.refuse(path, f"wanted {kind_of(obj)}, found {kind_of(tree)}")
    elif put is not None:
        todo.do(lambda: put(tree))
    elif repr(obj) != repr(tree):
        todo.refuse(path, f"wanted {obj!r:.80}, which nothing can replace where it stands, found {tree!r:.80}")


def _plan_scalar(obj: Any, tree: object, todo: Plan, path: Path, put: Put | None) -> None:
    array = todo.array(Spec(obj.dtype, ()), tree, path)
    if array is None:
        return
    if put is not None:
        todo.do(lambda: put(array[()]))
    elif array.tobytes() != obj.tobytes():
        todo.refuse(path, f"wanted {obj!r:.80}, which nothing can replace where it stands, found {array[()]!r:.80}")


def _plan_array(obj: Any, tree: object, todo: Plan, path: Path) -> None:
    array = todo.array(Spec(obj.dtype, obj.shape), tree, path)
    if not obj.flags.writeable:
        todo.refuse(path, "wanted an array to write into, but this one is read-only")
    elif array is not None:
        todo.write(obj, array, path, lambda: np.copyto(obj, array))


def _setter(container: Any, key: Any) -> Put:
    def put(value: object) -> None:
        container[key] = value

    return put
