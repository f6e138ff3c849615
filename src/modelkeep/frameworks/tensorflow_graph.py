"""TensorFlow's object graph: what ``tf.train.Checkpoint`` calls the variables of objects, and values for them."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.checkpoint.graph_view import ObjectGraphView

from modelkeep.frameworks import tensorflow as tensorflow_door
from modelkeep.frameworks.mismatch import Array, Fit, Path, check

_FIT = Fit("these TensorFlow objects", "name and build them as in tf.train.Checkpoint(...)", integers=True)


def load_named(objects: Mapping[str, Any], tensors: Mapping[str, Array]) -> list[str]:
    """Put ``tensors`` into the objects that ``tf.train.Checkpoint(**objects)`` was made of; returns names left over.

    Objects must be built: a name that no variable has yet is left over.

    Raises:
        StateMismatch: a variable without a tensor, or of another dtype or shape; nothing was changed.

    >>> import numpy as np
    >>> step = tf.Variable(0)
    >>> load_named({"step": step}, {"step": np.array(3, "i4"), "save_counter": np.array(1)})
    []
    >>> int(step)
    3
    """
    variables = named_variables(objects)
    steps: dict[Path, str] = {tuple(name.split("/")): name for name in variables}
    wanted = {path: tensorflow_door.spec(variables[name], tensors.get(name)) for path, name in steps.items()}
    found = {path: tensors[name] for path, name in steps.items() if name in tensors}
    for path, array in check(wanted, found, _FIT).items():
        variables[steps[path]].assign(tensorflow_door.from_numpy(array))
    return [name for name in tensors if name not in variables and name != _COUNTER]


_COUNTER = "save_counter"


def named_variables(objects: Mapping[str, Any]) -> dict[str, tf.Variable]:
    """Each variable by the shortest way to it, as in the index of a checkpoint."""
    root = tf.train.Checkpoint(**objects)
    parts, ways = ObjectGraphView(root).breadth_first_traversal()
    named = {"/".join(step.name for step in ways[part]): getattr(part, "_value", part) for part in parts}
    return {name: one for name, one in named.items() if isinstance(one, tf.Variable) and name != _COUNTER}
