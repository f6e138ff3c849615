"""Callbacks are watched as they run: what changes, and what no checkpoint would bring back, is named.

`mutations` reads their source before training starts; it cannot see what happens through aliases, ``setattr`` or calls
of other code. So the attributes of each callback of the user's own are compared with what they were before
the first step.
"""

import random
import types
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from keras.callbacks import Callback, LambdaCallback, LearningRateScheduler

from modelkeep.training.keras.callbacks import is_watched

_NOT_STATE = frozenset(["model", "_model", "params", "validation_data"])
_DEPTH = 4
_MOST = 10_000
"""Values looked at in one attribute: beyond, what changes is not seen from here."""


class Watch:
    """The callbacks as they were when this was made."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = [one for one in callbacks if is_watched(one) or _has_functions(one)]
        self._before = [_attributes(one) for one in self._callbacks]

    def findings(self) -> list[str]:
        """A sentence for each callback that has changed since, with what to do; each is named once."""
        found = []
        for index, callback in enumerate(self._callbacks):
            now = _attributes(callback)
            changed = sorted(name for name in now if now[name] != self._before[index].get(name))
            self._before[index] = now
            if changed:
                found.append(_sentence(callback, changed))
        return found


def _sentence(callback: Callback, changed: list[str]) -> str:
    name = type(callback).__name__
    if _has_functions(callback):
        return (
            f"a function that {name} was given has changed what it holds ({', '.join(changed)}); write a callback with "
            "get_state(self) and set_state(self, state) instead"
        )
    pairs = ", ".join(f'"{attribute}": self.{attribute}' for attribute in changed)
    return (
        f"{name} has changed {', '.join('self.' + attribute for attribute in changed)} while training and has no "
        f"get_state/set_state; add `def get_state(self): return {{{pairs}}}` and "
        "`def set_state(self, state): self.__dict__.update(state)`"
    )


def _has_functions(callback: Callback) -> bool:
    return type(callback) in (LambdaCallback, LearningRateScheduler)


def _attributes(callback: Callback) -> dict[str, str]:
    if _has_functions(callback):
        functions = {name: value for name, value in vars(callback).items() if isinstance(value, types.FunctionType)}
        return {name: shown(_cells(function)) for name, function in functions.items()}
    return {name: shown(value) for name, value in list(vars(callback).items()) if name not in _NOT_STATE}


def _cells(function: types.FunctionType) -> list[Any]:
    """What a function holds of its own: closed-over variables and mutable defaults."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    return [*cells, *(function.__defaults__ or ())]


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  it raises where there is nothing in it yet
    except ValueError:
        return False
    return True


def shown(value: Any) -> str:
    """A text that differs where the value does, as far as it is looked into."""
    return _shown(value, _DEPTH, [_MOST])


def _shown(value: Any, depth: int, left: list[int]) -> str:
    """A text that differs where the value does; values of kinds that are not known are their type."""
    left[0] -= 1
    leaf = _leaf(value)
    if leaf is not None or depth < 0 or left[0] < 0:
        return leaf or type(value).__name__
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key!r}:{_shown(one, depth - 1, left)}" for key, one in list(value.items())) + "}"
    if isinstance(value, AbstractSet):
        return repr(sorted(_shown(one, depth - 1, left) for one in value))
    if isinstance(value, Sequence):
        return "[" + ",".join(_shown(one, depth - 1, left) for one in value) + "]"
    inner = getattr(value, "__dict__", None)
    if isinstance(inner, dict) and not _is_of_framework(value) and not callable(value):
        return type(value).__name__ + _shown(inner, depth - 1, left)
    return type(value).__name__


def _leaf(value: Any) -> str | None:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return f"{array.dtype}{array.shape}{hash(array.tobytes()) if array.dtype != object else ''}"
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state(legacy=True))
    return str(hash(value.getstate())) if isinstance(value, random.Random) else None


def _is_of_framework(value: Any) -> bool:
    return type(value).__module__.split(".")[0] in (
        "keras",
        "tensorflow",
        "torch",
        "jax",
        "jaxlib",
        "threading",
        "logging",
    )
