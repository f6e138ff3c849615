"""numpy: trees of arrays, values and random generators as a state tree."""

from typing import Any

from modelkeep.frameworks import trees
from modelkeep.frameworks.mismatch import Fit, Path, Plan

_FIT = Fit("these numpy objects", "make them as they were when the state was taken")
_WAY_OUT = "hold it as numpy arrays and plain values, or keep it through the module of its own framework"


def state_of(obj: object, *, copy: bool = False) -> Any:  # noqa: ARG001 - the same in all frameworks; always a copy here
    """Return a tree of dicts, lists, tuples, arrays, numpy generators and plain values as a state.

    Arrays are always copied (numpy writes in place; ``copy`` is there because all frameworks have it), generators
    (``RandomState``, ``Generator``, any ``BitGenerator``) become the dict in which numpy describes them.

    Raises:
        UnsupportedState: a leaf of another kind; the message says where.

    >>> import numpy as np
    >>> state_of({"w": np.zeros(2), "rng": np.random.default_rng(7)})["rng"]["bit_generator"]
    'PCG64'
    """
    return trees.read(obj, _read_leaf)


def load_into(obj: object, tree: Any) -> None:
    """Put a state back in place: arrays are written into, values replaced in their dict or list, generators set.

    Raises:
        StateMismatch: a path, dtype, shape or kind differs; up to 20 are listed, and nothing was changed.
        UnsupportedState: ``obj`` holds a leaf that a state cannot.

    >>> import numpy as np
    >>> weights = {"w": np.zeros(2), "epoch": 0}
    >>> load_into(weights, {"w": np.ones(2), "epoch": 3})
    >>> weights
    {'w': array([1., 1.]), 'epoch': 3}
    """
    todo = Plan(_FIT)
    trees.plan(obj, tree, _plan_leaf, todo)
    todo.carry_out()


def _read_leaf(obj: object, path: Path) -> object:
    raise trees.unsupported(obj, path, _WAY_OUT)


def _plan_leaf(obj: object, _tree: object, path: Path, _todo: Plan) -> None:
    raise trees.unsupported(obj, path, _WAY_OUT)
