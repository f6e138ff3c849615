"""JAX: any pytree of arrays as a state tree."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from modelkeep.errors import UnsupportedState
from modelkeep.frameworks import trees
from modelkeep.frameworks.mismatch import Array, Fit, Path, Plan, Spec, described, leaves, nest, show

_FIT = Fit("this pytree", "build `like` as it was when the state was taken")
_WAY_OUT = "a pytree's leaves are arrays and plain values; take functions and other leaves out (equinox: eqx.partition)"


def state_of(obj: Any, *, copy: bool = False) -> Any:
    """Return a pytree's leaves as nested dicts by key path: dict keys, attribute names, positions as ints.

    Arrays come as numpy of the same bits; without ``copy`` they are read-only views where the device is the host (jax
    never writes into a buffer that is held; let go of them soon, for donation then has to copy). A typed PRNG key
    becomes ``{"impl": name, "key_data": uint32 array}``. numpy arrays are copied, plain values kept. Empty nodes
    (None, ``()``) have no leaves and are not in the state. A single leaf is a state of its own.

    Raises:
        UnsupportedState: a leaf that cannot be kept, or is not there: deleted by donation, traced inside ``jit``, or
            partly on other hosts; the message says where.

    >>> state_of({"w": jnp.ones(2), "layers": [jnp.zeros(1)], "key": jax.random.key(0)})["key"]["impl"]
    'threefry2x32'
    """
    found: dict[Path, Any] = {}
    for path, leaf in _leaves(obj):
        found[path] = _read(leaf, path, copy)
    return found[()] if list(found) == [()] else nest(found)


def restore(like: Any, tree: Any) -> Any:
    """Return a new pytree of the structure of ``like`` with the leaves of a state, bit for bit.

    Each array gets the devices, sharding and weak type of its like; a ``jax.ShapeDtypeStruct`` may stand for an array
    that does not exist yet (its weak type is not kept). No array shares memory with ``tree``.

    Raises:
        StateMismatch: a path, dtype, shape or kind differs; up to 20 are listed.
        UnsupportedState: ``like`` holds a leaf that a state cannot.

    >>> like = {"w": jnp.zeros(2), "step": 0}
    >>> restore(like, {"w": np.ones(2, "float32"), "step": 3})
    {'step': 3, 'w': Array([1., 1.], dtype=float32)}
    """
    todo = Plan(_FIT)
    tree = _keyed(tree)
    wanted = dict(_leaves(like))
    made: dict[Path, Any] = {}
    for path, leaf in wanted.items():
        try:
            found = _at(tree, path)
        except KeyError:
            todo.refuse(path, f"wanted {_described(leaf)}, not in the state")
            continue
        _plan(leaf, found, path, todo, made)
    for path, value in leaves(tree).items():
        if value is not None and not any(path[:n] in wanted for n in range(len(path) + 1)):
            todo.refuse(path, f"not wanted, found {trees.kind_of(value)}")
    todo.carry_out()
    return jtu.tree_unflatten(jtu.tree_structure(like), [made[path] for path in wanted])


def to_numpy(array: jax.Array, *, copy: bool = False) -> Array:
    """Return the array as numpy, of the same bits; without ``copy`` a read-only view where the device is the host."""
    view: Array = np.asarray(array)
    return np.array(view) if copy else view


def from_numpy(array: Array, like: jax.Array | jax.ShapeDtypeStruct, *, given: bool = False) -> jax.Array:
    """Return a jax array of the same bits, placed as ``like`` is.

    ``device_put`` may keep the numpy buffer as its own, so it is given a copy that nobody else holds, unless the array
    was ``given`` away and nobody changes it any more.

    >>> from_numpy(np.float32([1, 2]), jnp.zeros(2))
    Array([1., 2.], dtype=float32)
    """
    made: jax.Array = jax.device_put(array if given else np.array(array), _placement(like))
    if not isinstance(like, jax.Array) or not like.weak_type or like.is_deleted():
        return made
    # Python numbers follow the dtype of their partner by their weak type; an update in place is what keeps it.
    return like.at[...].set(made)


def _read(leaf: Any, path: Path, copy: bool) -> Any:
    if not isinstance(leaf, jax.Array):
        return trees.read(leaf, _refuse_leaf, path)
    try:
        return to_numpy(leaf, copy=copy)
    except (RuntimeError, TypeError):  # asked only now: a training waits for these lines, array by array
        if _is_key(leaf) and not isinstance(leaf, jax.core.Tracer):
            return {"impl": str(jax.random.key_impl(leaf)), "key_data": to_numpy(jax.random.key_data(leaf), copy=copy)}
        refused = _without_value(leaf)
        if refused is None:
            raise
        raise UnsupportedState(f"{show(path)}: {refused}") from None


def _without_value(leaf: Any) -> str | None:
    """Why an array has no value here, and the way out; None where it should have one."""
    if isinstance(leaf, jax.core.Tracer):
        return "has no value inside a transformed function; call this outside of jit"
    if leaf.is_deleted():
        return "was given away (donated); keep what the step returned instead"
    if not leaf.is_fully_addressable:
        return "lies partly on other hosts; gather it first"
    return None


def _plan(leaf: Any, found: Any, path: Path, todo: Plan, made: dict[Path, Any]) -> None:
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and _is_key(leaf):
        _plan_key(leaf, found, path, todo, made)
    elif isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        array = todo.array(Spec(np.dtype(leaf.dtype), tuple(leaf.shape)), found, path)
        if array is not None:
            todo.do(_maker(made, path, array, leaf))
    elif isinstance(leaf, np.ndarray | np.generic):
        array = todo.array(Spec(leaf.dtype, leaf.shape), found, path)
        if array is not None:
            made[path] = np.array(array) if isinstance(leaf, np.ndarray) else array[()]
    elif type(leaf) not in trees.VALUES:
        raise trees.unsupported(leaf, path, _WAY_OUT)
    elif type(found) not in trees.VALUES:
        todo.refuse(path, f"wanted {trees.kind_of(leaf)}, found {trees.kind_of(found)}")
    else:
        made[path] = found


def _maker(made: dict[Path, Any], path: Path, array: Array, like: Any) -> Callable[[], object]:
    return lambda: made.__setitem__(path, from_numpy(array, like))


def _plan_key(leaf: Any, found: Any, path: Path, todo: Plan, made: dict[Path, Any]) -> None:
    impl = str(jax.random.key_impl(jnp.zeros((), leaf.dtype)))
    saved = found.get("impl") if isinstance(found, dict) else None
    if not isinstance(found, dict) or saved != impl:
        todo.refuse(path, f"wanted a PRNG key of {impl}, found {saved or trees.kind_of(found)}")
        return
    data = jax.eval_shape(jax.random.key_data, leaf)
    array = todo.array(Spec(np.dtype(data.dtype), tuple(data.shape)), found.get("key_data"), (*path, "key_data"))
    if array is not None:
        todo.do(lambda: made.__setitem__(path, _key(array, impl, leaf)))


def _key(array: Array, impl: str, like: Any) -> Any:
    return jax.device_put(jax.random.wrap_key_data(jnp.array(array), impl=impl), _placement(like))


def _placement(like: Any) -> Any:
    # A device for an array that was not bound to one would bind it: computations with others would be refused.
    return like.sharding if isinstance(like, jax.ShapeDtypeStruct) or like.committed else None


def _leaves(obj: Any) -> Iterator[tuple[Path, Any]]:
    for keys, leaf in jtu.tree_flatten_with_path(obj)[0]:
        yield tuple([_segment(key, keys) for key in keys]), leaf


def _segment(key: Any, keys: Any) -> str | int:
    kind = type(key)
    name = key.name if kind is jtu.GetAttrKey else key.idx if kind is jtu.SequenceKey else key.key
    if type(name) is str or type(name) is int:
        return name
    raise UnsupportedState(f"{jtu.keystr(keys)}: the key {name!r:.80} is a {type(name).__name__}; use text or an int")


def _is_key(leaf: Any) -> bool:
    dtype = leaf.dtype  # a numpy dtype is none, and cheaper to tell
    return not isinstance(dtype, np.dtype) and bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))


def _keyed(tree: Any) -> Any:
    # A tree that somebody made by hand may hold the lists and tuples that state_of turns into dicts by position.
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    return {key: _keyed(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        if not isinstance(tree, dict):
            raise KeyError(key)
        tree = tree[key]
    return tree


def _described(leaf: Any) -> str:
    return f"{leaf.dtype} {list(leaf.shape)}" if isinstance(leaf, jax.Array) else described(leaf)


def _refuse_leaf(obj: object, path: Path) -> object:
    raise trees.unsupported(obj, path, _WAY_OUT)
