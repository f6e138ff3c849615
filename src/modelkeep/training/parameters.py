"""The parameters of a run: the same at each start, or refused with the difference shown."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from modelkeep.errors import ParamsChanged, UsageError
from modelkeep.training.plain import plain

EXEMPT = frozenset({"epochs"})
"""How long to train may change: what has been done stays what it was."""

_ABSENT = object()
_SHOWN = 60


def canonical_params(params: Mapping[str, object] | None) -> dict[str, Any] | None:
    """Return ``params`` as plain values: tuples as lists, numpy scalars as numbers.

    Raises:
        UsageError: not a mapping with text keys, or a value that JSON does not have.

    >>> canonical_params({"units": (64, 32)})
    {'units': [64, 32]}
    """
    if params is None:
        return None
    if not isinstance(params, Mapping):
        raise UsageError(f"params is a mapping such as {{'lr': 0.1}}, not {type(params).__name__}; try params=vars(x)")
    found: dict[str, Any] = plain(params, "params")
    return found


def check_params(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse parameters other than those that the run was started with; ``epochs`` may change.

    Numbers are compared by value, so 1 and 1.0 are the same.

    Raises:
        ParamsChanged: with a table of what differs, and the three ways out.
    """
    rows = [row for row in differences(old, new) if row[0] not in EXEMPT]
    if not rows:
        return
    width = max(len("parameter"), *(len(row[0]) for row in rows))
    then = max(len("then"), *(len(row[1]) for row in rows))
    lines = [f"  {key:<{width}}  {before:<{then}}  {now}" for key, before, now in [("parameter", "then", "now"), *rows]]
    raise ParamsChanged(
        f"run {name} was started with other parameters:\n"
        + "\n".join(lines)
        + "\npass new=True for a fresh run beside it (once: its name, from then on, is what goes on with it), "
        + f"fork='run:{name}@last' to start a new run from its last checkpoint, or the old values to go on"
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return path, old text and new text of each parameter that differs.

    >>> differences({"model": {"units": 64}, "lr": 1}, {"model": {"units": 32}, "lr": 1.0, "drop": 0.5})
    [('drop', '(absent)', '0.5'), ('model.units', '64', '32')]
    """
    return [(path, _shown(before), _shown(now)) for path, before, now in _differences("", dict(old), dict(new))]


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            inner = f"{path}.{key}" if path else key
            yield from _differences(inner, old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif not _is_same(old, new):
        yield path, old, new


def _is_same(old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_is_same, old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_is_same(old[key], new[key]) for key in old)
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    if isinstance(old, float) and isinstance(new, float) and math.isnan(old):
        return math.isnan(new)
    return bool(old == new)


def _shown(value: object) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
