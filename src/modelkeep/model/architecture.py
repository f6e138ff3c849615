"""A model's architecture as JSON: Keras' own configuration, its compilation beside it, and its vocabularies.

What no configuration holds though a model needs it, is taken along: the vocabularies that lookup layers have learned
(Keras writes those as files beside the configuration). All else that a layer has learned is a weight.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.layers.preprocessing.index_lookup import IndexLookup
from keras.src.saving import serialization_lib

from modelkeep.errors import UnsupportedState
from modelkeep.frameworks.keras_names import flat_layers
from modelkeep.model.special import FLOAT
from modelkeep.values import Json

FORMAT = 1
"""The number of the form that `describe` gives; a reader refuses a higher one."""

_NO_WAY_BACK = {
    "__lambda__": "a lambda, which cannot be loaded without running code from the file; use a named function",
    "__typespec__": "a TensorFlow type, which cannot be loaded without importing a module that the file names",
}


def describe(model: Any, *, compiled: bool = True) -> dict[str, Json]:
    """Return the architecture of a Keras model as JSON, from which `modelkeep.model.build.build` makes it again.

    Args:
        model: a built ``keras.Model``: Sequential, functional, or a subclass with ``get_config``.
        compiled: take the optimizer, the loss and the metrics along.

    Returns:
        ``format``, ``keras`` (its version), ``backend``, ``model`` (the configuration as in ``config.json`` of a
        ``.keras`` file), ``compile`` (or None) and ``vocabularies``.

    Raises:
        UnsupportedState: a part that has no configuration, or whose configuration holds code.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    >>> found = describe(model)
    >>> found["model"]["config"]["layers"][1]["config"]["units"]
    2
    """
    with warnings.catch_warnings(), serialization_lib.ObjectSharingScope():
        warnings.simplefilter("ignore", UserWarning)  # Keras warns of a lambda, and then writes it
        try:
            config = serialization_lib.serialize_keras_object(model)
        except (NotImplementedError, TypeError, ValueError, OSError) as error:
            raise UnsupportedState(
                f"model {model.name!r}: Keras gives no configuration of it: {error!s:.400}; give each class a "
                "get_config, and name functions instead of lambdas"
            ) from None
    kept = _taken_out(config, "compile_config") or None
    numbers: dict[int, int] = {}
    return {
        "format": FORMAT,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "model": _plain(config, "model", numbers),
        "compile": _plain(kept, "compile", numbers) if compiled and kept is not None else None,
        "vocabularies": list(vocabularies(model)),
    }


def vocabularies(model: Any) -> Iterator[dict[str, Json]]:
    """Yield what the lookup layers of a model have learned, each with its number among the layers."""
    for number, layer in enumerate(flat_layers(model)):
        if isinstance(layer, IndexLookup) and layer.input_vocabulary is None and layer.lookup_table.size() > 0:
            weights = layer.idf_weights_const.numpy() if layer.output_mode == "tf_idf" else None
            words = layer.get_vocabulary(include_special_tokens=True)
            yield {
                "layer": number,
                "vocabulary": [_word(word, layer.name) for word in words],
                # padding up to max_tokens is put on again when the vocabulary is set
                "idf_weights": None if weights is None else [float(value) for value in weights[: len(words)]],
            }


def _word(word: Any, name: str) -> Json:
    if isinstance(word, np.integer | int):
        return int(word)
    if isinstance(word, str):
        return word
    raise UnsupportedState(f"layer {name!r}: the vocabulary entry {word!r:.80} is neither text nor a whole number")


def _taken_out(config: Any, key: str) -> Any:
    """Take ``key`` out of a configuration and of all within it; return the outermost."""
    found = config.pop(key, None) if isinstance(config, dict) else None
    for item in list(config.values()) if isinstance(config, dict) else config:
        if isinstance(item, dict | list | tuple):
            _taken_out(item, key)
    return found


def _spelled_the_same(value: dict[Any, Any]) -> dict[Any, Any]:
    """The object as every backend and every process writes it."""
    module, name = value.get("module"), str(value.get("class_name"))
    if not isinstance(module, str):
        return value
    if module == "keras.quantizers" or ("DTypePolicy" in name and module.startswith("keras")):
        # a value, not a thing: whether two layers hold the same one depends on how they were made
        return {key: item for key, item in value.items() if key != "shared_object_id"}
    if module.startswith("keras.src.backend.") and ".optimizers." in module:
        return {**value, "module": "keras.optimizers", "registered_name": None}
    return value


def _plain(value: Any, where: str, numbers: dict[int, int]) -> Json:
    """JSON of what Keras takes for it: tuples are lists, numpy's scalars numbers, shared objects numbered from 1."""
    if isinstance(value, dict):
        code = value.get("class_name")
        if code in _NO_WAY_BACK:
            raise UnsupportedState(f"{where} holds {_NO_WAY_BACK[str(code)]}")
        found: dict[str, Json] = {}
        value = _spelled_the_same(value)
        for key, item in value.items():
            if not isinstance(key, str):
                raise UnsupportedState(
                    f"{where}: the key {key!r:.80} is of type {type(key).__name__}; JSON keys are text"
                )
            if key == "shared_object_id":
                found[key] = numbers.setdefault(item, len(numbers) + 1)
            else:
                found[key] = _plain(item, f"{where}.{key}", numbers)
        return found
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]", numbers) for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UnsupportedState(f"{where}: a value of type {type(value).__name__} is not JSON; change get_config")
