"""What a torch pickle holds: tensors of nested dicts and lists as flat names, the values beside them, and the whole."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from modelkeep.budget import Budget
from modelkeep.errors import UnknownFormat
from modelkeep.importers.torch_tensors import Stored, reach
from modelkeep.importers.weights import Catalogue, Weights
from modelkeep.values import Json

_OPTIMIZERS = ("optimizer", "optimizer_state", "optimizer_state_dict", "optimizer_states", "optimizers", "optim")
_NOTHING = object()


class Flattener:
    """Walks a value of dicts, lists and tuples; keys are joined by ``/``."""

    def __init__(self, where: str, budget: Budget, read: Callable[[Stored], NDArray[Any]]) -> None:
        self._catalogue = Catalogue(where, budget)
        self._where, self._budget, self._read, self._visits = where, budget, read, 0
        self._places: dict[Stored, list[str]] = {}

    def weights(self, form: str, value: Any) -> Weights:
        """The tensors by name; ``metadata["values"]`` has what is beside them, ``"tied"`` the names of one tensor.

        Raises:
            UnknownFormat: no tensor in it.
            LimitExceeded: deeper, longer or larger than the budget allows.
        """
        values = self._walk(value, "", 0)
        if not self._catalogue.names():
            raise UnknownFormat(f"{self._where}: there is no tensor in it")
        top = [key for key in value if key in _OPTIMIZERS] if isinstance(value, dict) else []
        tied: list[Json] = [list(names) for names in self._places.values() if len(names) > 1]
        found = self._catalogue.weights(
            form,
            {
                "optimizer": f"{top[0]}/" if top else "",
                "values": None if values is _NOTHING else values,
                "tied": tied,
            },
        )
        return replace(found, tree=lambda: self._tree(value))

    def _tree(self, value: Any) -> Any:
        """The containers of a value that `_walk` has counted, with arrays and Python's own values."""
        if isinstance(value, Stored):
            return self._read(value)
        if isinstance(value, dict):
            return {key if type(key) is int else _text(key): self._tree(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [self._tree(item) for item in value]
            return items if isinstance(value, list) else tuple(items)
        return getattr(value, "name", value)

    def _walk(self, value: Any, name: str, depth: int) -> Any:
        """The JSON of what is no tensor, or `_NOTHING`."""
        self._visits += 1
        self._budget.check("depth", depth, self._where)
        self._budget.check("entries", self._visits, self._where)
        if isinstance(value, Stored):
            first, past = reach(value)
            self._catalogue.add(
                name or "tensor", value.dtype, value.shape, partial(self._read, value), span=past - first
            )
            self._places.setdefault(value, []).append(name)
            return _NOTHING
        if isinstance(value, dict):
            found = {_text(key): self._walk(item, _join(name, key), depth + 1) for key, item in value.items()}
            kept = {key: item for key, item in found.items() if item is not _NOTHING}
            return kept if kept or not found else _NOTHING
        if isinstance(value, (list, tuple)):
            items = [self._walk(item, _join(name, index), depth + 1) for index, item in enumerate(value)]
            items = [item for item in items if item is not _NOTHING]
            return items if items or not value else _NOTHING
        return _plain(value)


def _join(name: str, key: Any) -> str:
    return f"{name}/{_text(key)}" if name else _text(key)


def _text(key: Any) -> str:
    return key if isinstance(key, str) else key.decode("latin1") if isinstance(key, bytes) else str(key)


def _plain(value: Any) -> Json:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(getattr(value, "name", value))[:1000]
