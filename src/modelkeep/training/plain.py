"""Values as a person gives them (tuples, numpy scalars, NaN) as JSON that can be kept, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from modelkeep.errors import UsageError
from modelkeep.state.leaves import encode as encode_leaf
from modelkeep.state.tree import unflatten
from modelkeep.values import Json

_MAX_DEPTH = 20


def plain(value: object, where: str) -> Any:
    """Return ``value`` as dicts with text keys, lists, text, bool, int, float and None.

    Tuples and arrays become lists, numpy scalars the number that they hold; NaN and infinities stay.

    Raises:
        UsageError: for anything else, naming its place within ``where``.

    >>> plain({"size": (3, np.int64(4)), "drop": None}, "params")
    {'size': [3, 4], 'drop': None}
    """
    return _plain(value, where, 0)


def encode(value: object, where: str) -> Json:
    """Return `plain` of ``value`` as strict JSON: NaN, infinities and huge integers as tagged objects."""
    return _encode(_plain(value, where, 0), where)


def decode(value: Json) -> Any:
    """Return what `encode` was given.

    >>> decode(encode({"loss": float("inf")}, "metrics"))
    {'loss': inf}
    """
    return unflatten(value, {})


def numbers(values: Mapping[str, object]) -> dict[str, float]:
    """Return metrics as named numbers; one that is an array becomes one number for each item, ``name/0``, ….

    Raises:
        UsageError: a name that is no text, or a value that is no number.

    >>> numbers({"loss": np.float32(0.5), "f1": np.array([0.25, 1.0])})
    {'loss': 0.5, 'f1/0': 0.25, 'f1/1': 1.0}
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise UsageError(f"metrics: the name {name!r:.80} is of type {type(name).__name__}, not str")
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" and array.dtype.type.__module__ != "ml_dtypes":
            raise UsageError(f"metrics: {name} is {value!r:.80}, which is no number; leave it out, or pass float(x)")
        items = array.astype(np.float64).ravel().tolist()
        found |= {name: items[0]} if array.size == 1 else {f"{name}/{index}": one for index, one in enumerate(items)}
    return found


def _plain(value: object, where: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise UsageError(f"{where:.200}: more than {_MAX_DEPTH} lists and dicts within each other")
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufU":
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value) if type(value) is not kind else value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UsageError(f"{where}: the key {key!r:.80} is of type {type(key).__name__}; keys are text")
        return {str(key): _plain(item, f"{where}/{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}/{index}", depth + 1) for index, item in enumerate(value)]
    raise UsageError(
        f"{where}: a value of type {type(value).__name__} cannot be kept here; use text, numbers, None, lists and dicts"
    )


def _encode(value: Any, where: str) -> Json:
    if isinstance(value, list):
        return [_encode(item, f"{where}/{index}") for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return encode_leaf(value, where)
    entries: dict[str, Json] = {key: _encode(item, f"{where}/{key}") for key, item in value.items()}
    if not any(key.startswith("$") for key in entries):
        return entries
    return {"$": "dict", "items": [[key, item] for key, item in entries.items()]}
