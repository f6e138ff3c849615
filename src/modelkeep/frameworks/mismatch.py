"""Whether a state fits an object: every leaf is checked before anything is changed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.errors import StateMismatch
from modelkeep.state.paths import ROOT, child, shown

Path = tuple[str | int, ...]
"""Keys from the root of a tree down to one leaf."""

Array = NDArray[Any]

LINES = 20
"""A message lists so many leaves; the rest is a number."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a leaf must be: a numpy (or ml_dtypes) dtype and a shape."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        """Write dtype and shape as messages show them.

        >>> str(Spec(np.dtype("float32"), (3, 4)))
        'float32 [3, 4]'
        """
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Fit:
    """What a check is about.

    ``what`` names the object ("this model"), ``way_out`` what the caller can do. With ``integers`` an integer leaf
    may change its width where every value survives: backends count steps in int32 or int64.
    """

    what: str
    way_out: str
    integers: bool = False


@dataclass(slots=True)
class Plan:
    """What loading would do, and what speaks against it; nothing is done before all of it has been looked at.

    >>> plan = Plan(Fit("this model", "rebuild it"))
    >>> plan.array(Spec(np.dtype("float32"), (2,)), np.ones(3, "f4"), ("w",)) is None
    True
    >>> plan.carry_out()
    Traceback (most recent call last):
    modelkeep.errors.StateMismatch: the state does not fit this model, and nothing was changed; rebuild it:
      w: wanted float32 [2], found float32 [3]
    """

    fit: Fit
    problems: list[str] = field(default_factory=list)
    actions: list[Callable[[], object]] = field(default_factory=list)
    given: dict[int, tuple[Path, Array]] = field(default_factory=dict)

    def refuse(self, path: Path, problem: str) -> None:
        """Note that the leaf at ``path`` does not fit."""
        self.problems.append(f"{show(path)}: {problem}")

    def do(self, action: Callable[[], object]) -> None:
        """Note what to do once everything fits."""
        self.actions.append(action)

    def array(self, spec: Spec, found: object, path: Path) -> Array | None:
        """Return what was found as an array of ``spec``; None when it does not fit, which is noted."""
        array = _fitted(found, spec, self.fit.integers)
        if array is None:
            self.refuse(path, f"wanted {spec}, found {described(found, spec)}")
        return array

    def write(self, target: object, array: Array, path: Path, action: Callable[[], object]) -> None:
        """Note an ``action`` that writes ``array`` into ``target``, which may stand at several paths: once is enough.

        >>> plan, tied = Plan(Fit("this model", "rebuild it")), object()
        >>> plan.write(tied, np.zeros(1), ("a",), print)
        >>> plan.write(tied, np.ones(1), ("b",), print)
        >>> plan.problems
        ['b: is the same as a, found other values than there']
        """
        if id(target) not in self.given:
            self.given[id(target)] = (path, array)
            self.do(action)
            return
        first, same = self.given[id(target)]
        if same is not array and not _same_bits(same, array):
            self.refuse(path, f"is the same as {show(first)}, found other values than there")

    def carry_out(self) -> None:
        """Do all that was planned.

        Raises:
            StateMismatch: something was refused; up to 20 leaves are listed, and nothing was done.
        """
        if self.problems:
            lines = [f"\n  {problem}" for problem in self.problems[:LINES]]
            if len(self.problems) > LINES:
                lines.append(f"\n  and {len(self.problems) - LINES} more")
            raise StateMismatch(
                f"the state does not fit {self.fit.what}, and nothing was changed; {self.fit.way_out}:{''.join(lines)}"
            )
        for action in self.actions:
            action()


def check(wanted: Mapping[Path, Spec], found: Mapping[Path, object], fit: Fit) -> dict[Path, Array]:
    """Return the arrays of ``found`` in the dtypes of ``wanted``, each path of either side used exactly once.

    Raises:
        StateMismatch: a path is missing, unknown, or of another dtype or shape; up to 20 of them are listed.

    >>> check({("w",): Spec(np.dtype("float32"), (2,))}, {("w",): np.ones(2, "f4")}, Fit("this model", "rebuild it"))
    {('w',): array([1., 1.], dtype=float32)}
    """
    plan = Plan(fit)
    arrays: dict[Path, Array] = {}
    for path, spec in wanted.items():
        if path not in found:
            plan.refuse(path, f"wanted {spec}, not in the state")
            continue
        array = plan.array(spec, found[path], path)
        if array is not None:
            arrays[path] = array
    for path, value in found.items():
        if path not in wanted:
            plan.refuse(path, f"not wanted, found {described(value)}")
    plan.carry_out()
    return arrays


def leaves(tree: object, path: Path = ()) -> dict[Path, Any]:
    """Flatten nested dicts (only dicts) into leaves by their path, in order.

    >>> leaves({"a": {"b": 1}, "c": {}})
    {('a', 'b'): 1}
    """
    if not isinstance(tree, Mapping):
        return {path: tree}
    found: dict[Path, Any] = {}
    for key, value in tree.items():
        found.update(leaves(value, (*path, key)))
    return found


def nest(found: Mapping[Path, object]) -> dict[str | int, Any]:
    """Build nested dicts from leaves by path; the inverse of :func:`leaves`.

    >>> nest({("a", "b"): 1, ("a", "c"): 2})
    {'a': {'b': 1, 'c': 2}}
    """
    tree: dict[str | int, Any] = {}
    for path, value in found.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return tree


def show(path: Path) -> str:
    """Write a path as the rest of modelkeep writes it.

    >>> show(("model", "dense", 0))
    'model/dense/0'
    """
    return shown(reduce(child, path, ROOT))


def described(value: object, wanted: Spec | None = None) -> str:
    """Say what was found, and why it does not do where dtype and shape alone do not tell.

    >>> described([1])
    'list (not an array)'
    """
    if not isinstance(value, np.ndarray | np.generic):
        return f"{type(value).__name__} (not an array)"
    array = np.asarray(value)
    text = str(Spec(array.dtype, array.shape))
    if wanted is None or array.shape != wanted.shape or not _both_integer(array.dtype, wanted.dtype):
        return text
    return text if _survives(array, wanted.dtype) else f"{text} with values that {wanted.dtype} cannot hold"


def _fitted(value: object, spec: Spec, integers: bool) -> Array | None:
    if not isinstance(value, np.ndarray | np.generic):
        return None
    array = np.asarray(value)
    if array.shape != spec.shape:
        return None
    if array.dtype == spec.dtype:
        return array
    if array.dtype.newbyteorder("=") == spec.dtype:
        return array.astype(spec.dtype)
    if integers and _both_integer(array.dtype, spec.dtype) and _survives(array, spec.dtype):
        return array.astype(spec.dtype)
    return None


def _same_bits(one: Array, other: Array) -> bool:
    if one.dtype.kind == "O":
        return bool(one.tolist() == other.tolist())
    return one.tobytes() == other.tobytes()


def _both_integer(one: np.dtype[Any], other: np.dtype[Any]) -> bool:
    return one.kind in "iu" and other.kind in "iu"


def _survives(array: Array, dtype: np.dtype[Any]) -> bool:
    if array.size == 0:
        return True
    limits = np.iinfo(dtype)
    return int(limits.min) <= int(array.min()) and int(array.max()) <= int(limits.max)
