"""What a training was set up with, as short JSON: a resume compares it, since other settings give other bits.

Names that Keras makes up are left out: a second model of one process has others. Large values stand as digests.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from modelkeep.snapshot.pieces import digest
from modelkeep.training.keras.feed import Feed
from modelkeep.training.parameters import differences

Setup = dict[str, Any]

_LEFT_OUT = frozenset(["name", "trainable", "registered_name", "module", "shared_object_id", "build_config"])
_DIGITS = 12


def setup_of(model: keras.Model, feed: Feed | None, validation: Feed | None, options: Mapping[str, Any]) -> Setup:
    """Describe data, model and compilation. ``options``: arguments of ``fit`` that decide the bits.

    Returns: nested dicts with text keys; ``data`` / ``validation`` / ``fit`` / ``compile`` / ``layers``.
    """
    return {
        "data": feed.source.description() if feed is not None else {},
        "validation": validation.source.description() if validation is not None else {},
        "fit": {name: _described(value) for name, value in options.items()},
        "compile": {**_compilation(model), "trainable": trainable(model)},
        "layers": {f"{number} {kind}": config for number, (kind, config) in enumerate(_layers(model))},
    }


def trainable(model: keras.Model) -> str:
    """Which weights are trained now, as a digest."""
    return _digest([list(variable.shape) for variable in model.trainable_variables])


def changes(then: Setup, now: Setup, state: Mapping[str, Any]) -> dict[str, str]:
    """What differs: path -> a sentence. ``state``: of the checkpoint.

    A learning rate that is the checkpoint's own, which callbacks may have set, is no difference.
    """
    found = {}
    for path, before, after in differences(then, now):
        if path.endswith("learning_rate") and after in _rates(state.get("optimizer")):
            continue
        part, _, name = path.partition(".")
        if name == "trainable":
            found[path] = (
                "other weights are trainable than then; what a callback freezes or thaws inside fit cannot be resumed, "
                "so do it between two calls of fit, each after compile"
            )
        elif part == "layers":
            found[path] = f"layer {name} is configured otherwise, or another one, or was added or taken away"
        else:
            found[path] = f"{part}: {name} was {before} and is {after}"
    return found


def _compilation(model: Any) -> dict[str, Any]:
    config = getattr(getattr(model, "_compile_config", None), "config", None)
    return {str(name): _described(value) for name, value in (config or {}).items()}


def _layers(model: Any) -> list[tuple[str, str]]:
    """Class and digest of the configuration of each layer that has no layers within."""
    found = []
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if not list(layer._flatten_layers(include_self=False)):
            try:
                config = _described(layer.get_config())
            except NotImplementedError:  # a layer of the user's own, whose arguments Keras cannot tell
                config = None
            found.append((type(layer).__name__, _digest(config)))
    return found


def _described(value: Any, depth: int = 12) -> Any:
    """A value of a configuration as JSON that is the same in each process."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)} {digest(np.ascontiguousarray(value).tobytes())[:_DIGITS]}"
    if depth == 0:
        return type(value).__name__
    if isinstance(value, Mapping):
        return {str(key): _described(one, depth - 1) for key, one in value.items() if key not in _LEFT_OUT}
    if isinstance(value, Sequence):
        return [_described(one, depth - 1) for one in value]
    if callable(getattr(value, "get_config", None)):
        return {"class": type(value).__name__, **_described(_config_of(value), depth - 1)}
    code = getattr(value, "__code__", None)
    if code is not None:
        return f"{value.__qualname__} {_digest([code.co_code.hex(), repr(code.co_names)])}"
    return getattr(value, "__qualname__", type(value).__name__)


def _config_of(value: Any) -> dict[str, Any]:
    try:
        config: dict[str, Any] = value.get_config()
    except NotImplementedError:
        return {}
    return config


def _digest(value: Any) -> str:
    return digest(repr(value).encode())[:_DIGITS]


def _rates(tree: Any) -> set[str]:
    """The learning rates in an optimizer's state, as `differences` shows them."""
    if not isinstance(tree, Mapping):
        return set()
    found = {repr(float(tree["learning_rate"]))} if isinstance(tree.get("learning_rate"), np.ndarray) else set()
    return found.union(*(_rates(value) for value in tree.values()))
