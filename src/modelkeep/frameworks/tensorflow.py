"""TensorFlow: variables, modules, generators and plain trees of them as a state tree."""

from typing import Any

import numpy as np
import tensorflow as tf

from modelkeep.frameworks import trees
from modelkeep.frameworks.mismatch import Array, Fit, Path, Plan, Spec, nest
from modelkeep.state.memory import ALIGNMENT

_FIT = Fit("these TensorFlow objects", "make them as they were when the state was taken")
_WAY_OUT = "pass tf.Variable, tf.Module, tf.random.Generator, plain values and dicts and lists of them"


def state_of(obj: object, *, copy: bool = False) -> Any:
    """Return the state of variables, or of a tree of them, with a numpy array for each.

    A ``tf.Module`` becomes nested dicts by attribute (``layers/0/kernel``), a ``tf.random.Generator`` its algorithm
    and state, text variables object arrays of bytes. A variable under two names is one array under two paths, and one
    that each replica of ``tf.distribute`` updates by itself (`replicas_of`) a list with the array of each.
    Without ``copy`` arrays are read-only views that later assignments do not change.

    Raises:
        UnsupportedState: a leaf that cannot be kept; the message says where.

    >>> state_of({"w": tf.Variable([1.0, 2.0]), "step": 3})
    {'w': array([1., 2.], dtype=float32), 'step': 3}
    """
    return trees.read(obj, _Reader(copy))


def load_into(obj: object, tree: Any) -> None:
    """Put a state back in place: variables and generators are assigned, values replaced in their dict or list.

    Raises:
        StateMismatch: a path, dtype or shape differs; up to 20 are listed, and nothing was changed.
        UnsupportedState: ``obj`` holds a leaf that a state cannot, or a ``tf.Tensor``, which cannot be assigned.

    >>> weights = {"w": tf.Variable([0.0, 0.0])}
    >>> load_into(weights, {"w": np.float32([1, 2])})
    >>> weights["w"].numpy().tolist()
    [1.0, 2.0]
    """
    todo = Plan(_FIT)
    trees.plan(obj, tree, _plan_leaf, todo)
    todo.carry_out()


def to_numpy(value: tf.Tensor | tf.Variable, *, copy: bool = False) -> Array:
    """Return the value as an array of the same bits; text comes as an object array of bytes.

    Without ``copy`` the array is a read-only view: TensorFlow copies a buffer before it writes to one that is
    still held, so that later assignments do not change the view. (float8 and int4 are copied always.)

    >>> v = tf.Variable([1.0, 2.0])
    >>> view = to_numpy(v)
    >>> _ = v.assign([3.0, 4.0])
    >>> view.tolist()
    [1.0, 2.0]
    """
    tensor = value.value() if isinstance(value, tf.Variable) else value  # read_value() does the same in twice the time
    if tensor.dtype == tf.string:
        return np.array(tensor.numpy(), dtype=object)
    dtype = np.dtype(tensor.dtype.as_numpy_dtype)
    if dtype.isbuiltin == 1:
        array = np.asarray(memoryview(tensor))
    elif tensor.dtype == tf.bfloat16:
        # The buffer protocol has no letter for bfloat16: the same bytes go out as integers.
        array = np.asarray(memoryview(tf.bitcast(tensor, tf.uint16))).view(dtype)
    else:
        return np.array(tensor.numpy())
    return array.copy() if copy else array


def from_numpy(array: Array, *, given: bool = False) -> tf.Tensor:
    """Return a tensor of the same bits that shares no memory with ``array``; object arrays become text.

    An array that is ``given`` away, which nobody changes any more, may be shared: TensorFlow never writes to memory
    that is not its own, and copies it at the first update of a variable.

    >>> from_numpy(np.float32([1, 2])).numpy().tolist()
    [1.0, 2.0]
    """
    if array.dtype.kind == "O":
        return tf.constant(array, dtype=tf.string)
    if given and _is_shareable(array):
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.constant(array)


def _is_shareable(array: Array) -> bool:
    """Whether TensorFlow takes its memory: it ends the process where an address is not a multiple of 64 bytes."""
    plain = array.dtype.isbuiltin == 1 and array.dtype.kind in "fiu" and array.dtype.isnative
    return plain and bool(array.flags.carray) and array.nbytes > 0 and array.ctypes.data % ALIGNMENT == 0


def replicas_of(variable: object) -> list[tf.Variable]:
    """The variable of each replica, where ``tf.distribute`` lets them differ: what is not trained, and is on several.

    >>> replicas_of(tf.Variable([1.0], trainable=False))
    []
    """
    if not isinstance(variable, tf.distribute.DistributedValues) or len(variable.values) == 1:
        return []
    apart = not variable.trainable or variable.synchronization == tf.VariableSynchronization.ON_READ
    return list(variable.values) if apart else []


class _Reader:
    """Reads leaves; a variable that stands in several places is read once."""

    def __init__(self, copy: bool) -> None:
        self._copy = copy
        self._arrays: dict[int, Array] = {}

    def __call__(self, obj: object, path: Path) -> object:
        replicas = replicas_of(obj)
        if replicas:
            return [self(one, path) for one in replicas]
        if isinstance(obj, tf.Variable):
            if id(obj) not in self._arrays:
                self._arrays[id(obj)] = to_numpy(obj, copy=self._copy)
            return self._arrays[id(obj)]
        if isinstance(obj, tf.Tensor):
            return to_numpy(obj, copy=self._copy)
        if isinstance(obj, tf.random.Generator):
            return {"algorithm": int(obj.algorithm), "state": to_numpy(obj.state, copy=self._copy)}
        if isinstance(obj, tf.Module):
            return trees.read(_by_attribute(obj), self, path)
        raise trees.unsupported(obj, path, _WAY_OUT)


def _plan_leaf(obj: Any, tree: object, path: Path, todo: Plan) -> None:
    replicas = replicas_of(obj)
    if replicas:
        trees.plan(replicas, tree, _plan_leaf, todo, path)
    elif isinstance(obj, tf.Variable):
        array = todo.array(spec(obj, tree), tree, path)
        if array is not None:
            todo.write(obj, array, path, lambda: obj.assign(from_numpy(array)))
    elif isinstance(obj, tf.random.Generator):
        algorithm = tree.get("algorithm") if isinstance(tree, dict) else None
        if not isinstance(tree, dict) or algorithm != int(obj.algorithm):
            todo.refuse(path, f"wanted a generator of algorithm {int(obj.algorithm)}, found {algorithm}")
        else:
            _plan_leaf(obj.state, tree.get("state"), (*path, "state"), todo)
    elif isinstance(obj, tf.Module):
        trees.plan(_by_attribute(obj), tree, _plan_leaf, todo, path)
    else:
        way_out = "a tf.Tensor cannot be assigned; hold a tf.Variable" if isinstance(obj, tf.Tensor) else _WAY_OUT
        raise trees.unsupported(obj, path, way_out)


def spec(variable: tf.Variable, found: object) -> Spec:
    """What a variable takes; one with open dimensions takes the shape of what was found."""
    text = variable.dtype == tf.string
    dtype = np.dtype(object) if text else np.dtype(variable.dtype.as_numpy_dtype)
    shape = tuple(int(size) for size in variable.read_value().shape)
    open_shape = not variable.shape.is_fully_defined()
    if open_shape and isinstance(found, np.ndarray) and variable.shape.is_compatible_with(found.shape):
        shape = found.shape  # a variable declared with open dimensions takes any value that fits them
    return Spec(dtype, shape)


def _by_attribute(module: tf.Module) -> dict[str | int, Any]:
    found = module._flatten(with_path=True, predicate=lambda part: isinstance(part, tf.Variable | tf.random.Generator))
    return nest({tuple(path): part for path, part in found})
