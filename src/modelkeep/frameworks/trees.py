"""Plain trees: dicts, lists and tuples around numpy arrays, numpy generators, values, and a framework's own leaves."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from modelkeep.errors import UnsupportedState
from modelkeep.frameworks.mismatch import Path, Plan, Spec, described, show

ReadLeaf = Callable[[object, Path], object]
"""Turns a leaf that is not plain into a tree; raises UnsupportedState when it cannot."""

PlanLeaf = Callable[[object, object, Path, Plan], None]
"""Plans how a leaf that is not plain takes what was found in the state."""

Put = Callable[[object], object]
"""Replaces a value in the container that holds it."""

_VALUES = (bool, int, float, complex, str, bytes, type(None))
_ABSENT = object()


def read(obj: object, read_leaf: ReadLeaf, path: Path = ()) -> Any:
    """Return ``obj`` as a state tree that shares no memory with its numpy arrays."""
    if isinstance(obj, Mapping):
        return {key: read(value, read_leaf, (*path, key)) for key, value in obj.items()}
    if isinstance(obj, list):
        return [read(value, read_leaf, (*path, n)) for n, value in enumerate(obj)]
    if isinstance(obj, tuple):
        return tuple(read(value, read_leaf, (*path, n)) for n, value in enumerate(obj))
    if type(obj) in _VALUES:
        return obj
    if isinstance(obj, np.ndarray | np.generic):
        return np.array(obj)
    generator = _bit_generator(obj)
    if generator is not None:
        return read(generator.state, read_leaf, path)
    return read_leaf(obj, path)


def plan(obj: object, tree: object, plan_leaf: PlanLeaf, todo: Plan, path: Path = (), put: Put | None = None) -> None:
    """Plan how ``obj`` takes ``tree`` in place: arrays are written into, values replaced where a container holds them.

    ``put`` replaces ``obj`` itself in its container; None where that cannot be done (the root, or in a tuple).
    """
    if isinstance(obj, Mapping):
        _plan_dict(obj, tree, plan_leaf, todo, path)
    elif isinstance(obj, list | tuple):
        _plan_sequence(obj, tree, plan_leaf, todo, path)
    elif type(obj) in _VALUES:
        _plan_value(obj, tree, todo, path, put)
    elif isinstance(obj, np.generic):
        _plan_scalar(obj, tree, todo, path, put)
    elif isinstance(obj, np.ndarray):
        array = todo.array(Spec(obj.dtype, obj.shape), tree, path)
        if not obj.flags.writeable:
            todo.refuse(path, "the array is read-only")
        elif array is not None:
            todo.do(lambda: np.copyto(obj, array))
    elif _bit_generator(obj) is not None:
        _plan_generator(_bit_generator(obj), tree, todo, path)
    else:
        plan_leaf(obj, tree, path, todo)


def unsupported(obj: object, path: Path, way_out: str) -> UnsupportedState:
    """Return the error for a leaf that cannot be kept."""
    kind = type(obj)
    return UnsupportedState(f"{show(path)}: a {kind.__module__}.{kind.__qualname__} cannot be kept; {way_out}")


def _plan_dict(obj: Mapping[Any, Any], tree: object, plan_leaf: PlanLeaf, todo: Plan, path: Path) -> None:
    if not isinstance(tree, Mapping):
        todo.refuse(path, f"wanted a dict, found {described(tree)}")
        return
    for key, value in obj.items():
        if key not in tree:
            todo.refuse((*path, key), f"wanted {_kind(value)}, not in the state")
            continue
        put = _setter(obj, key) if isinstance(obj, dict) else None
        plan(value, tree[key], plan_leaf, todo, (*path, key), put)
    for key in tree:
        if key not in obj:
            todo.refuse((*path, key), f"not wanted, found {_kind(tree[key])}")


def _plan_sequence(obj: Any, tree: object, plan_leaf: PlanLeaf, todo: Plan, path: Path) -> None:
    if not isinstance(tree, list | tuple) or len(tree) != len(obj):
        found = f"{len(tree)} items" if isinstance(tree, list | tuple) else described(tree)
        todo.refuse(path, f"wanted {len(obj)} items, found {found}")
        return
    for n, (value, found_value) in enumerate(zip(obj, tree, strict=True)):
        put = _setter(obj, n) if isinstance(obj, list) else None
        plan(value, found_value, plan_leaf, todo, (*path, n), put)


def _plan_value(obj: object, tree: object, todo: Plan, path: Path, put: Put | None) -> None:
    if type(tree) not in _VALUES:
        todo.refuse(path, f"wanted {_kind(obj)}, found {_kind(tree)}")
    elif put is not None:
        todo.do(lambda: put(tree))
    elif repr(obj) != repr(tree):
        todo.refuse(path, f"wanted {obj!r:.80}, which cannot be replaced where it is, found {tree!r:.80}")


def _plan_scalar(obj: Any, tree: object, todo: Plan, path: Path, put: Put | None) -> None:
    array = todo.array(Spec(obj.dtype, ()), tree, path)
    if array is None:
        return
    if put is not None:
        todo.do(lambda: put(array[()]))
    elif array.tobytes() != obj.tobytes():
        todo.refuse(path, f"wanted {obj!r:.80}, which cannot be replaced where it is, found {array[()]!r:.80}")


def _plan_generator(generator: Any, tree: object, todo: Plan, path: Path) -> None:
    wanted = generator.state["bit_generator"]
    found = tree.get("bit_generator") if isinstance(tree, Mapping) else None
    if not isinstance(tree, Mapping) or found != wanted:
        todo.refuse(path, f"wanted the state of a numpy {wanted}, found {found or described(tree)}")
        return
    # A trial on a new generator of the kind shows what numpy refuses, before this one is touched.
    scratch = _Plain(generator.state)
    plan(scratch.tree, tree, _no_leaf, todo, path)
    todo.do(lambda: _restore_generator(generator, tree))


class _Plain:
    """A generator's state as a tree that planning may look at."""

    def __init__(self, tree: Any) -> None:
        self.tree = read(tree, _no_leaf_read)


def _restore_generator(generator: Any, tree: Any) -> None:
    generator.state = tree


def _bit_generator(obj: object) -> Any:
    if isinstance(obj, np.random.BitGenerator):
        return obj
    if isinstance(obj, np.random.Generator):
        return obj.bit_generator
    return _Legacy(obj) if isinstance(obj, np.random.RandomState) else None


class _Legacy:
    """A ``RandomState`` seen as a bit generator; its state also holds the spare Gaussian."""

    def __init__(self, random: np.random.RandomState) -> None:
        self._random = random

    @property
    def state(self) -> Any:
        return self._random.get_state(legacy=False)

    @state.setter
    def state(self, tree: Any) -> None:
        self._random.set_state(tree)


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray | np.generic):
        return described(value)
    return "a dict" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _setter(container: Any, key: Any) -> Put:
    return lambda value: container.__setitem__(key, value)
