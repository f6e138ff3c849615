"""A Keras model with the outputs of layers in its middle, as a model of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras

from modelkeep.errors import UsageError
from modelkeep.exporters.built import Built
from modelkeep.model.keras_model import answers
from modelkeep.model.signature import Signature, TensorInfo, info_of


def tensors(model: Any) -> dict[str, list[Any]]:
    """What each layer gives, by the layer's name, in the order of computing.

    Raises:
        UsageError: it has no order of layers, as subclassed models have not.
    """
    found: dict[str, list[Any]] = {}
    functional = _functional(model)
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if not node.is_input:
                found.setdefault(node.operation.name, []).extend(node.outputs)
    return found


def with_outputs(built: Built, outputs: Mapping[str, Any]) -> tuple[Built, dict[str, Any]]:
    """The model with tensors of its middle as its outputs, and what it answers to its examples under this backend."""
    opened = keras.Model(_functional(built.model)._inputs_struct, dict(outputs))
    found = answers(opened, built.examples)
    infos: dict[str, TensorInfo] = {name: info_of(array, name) for name, array in found.items()}
    return replace(built, model=opened, signature=Signature(built.signature.inputs, infos)), found


def of_layer(built: Built, name: str) -> tuple[Built, dict[str, Any]]:
    """The model up to a layer, whose output has the layer's name (several: with a number), and what it answers.

    Raises:
        UsageError: there is no such layer.
    """
    there = tensors(built.model)
    if name not in there:
        raise UsageError(f"a signature is asked for layer {name!r:.80}, and the layers are {', '.join(there):.400}")
    given = there[name]
    return with_outputs(built, {name if len(given) == 1 else f"{name}_{at}": one for at, one in enumerate(given)})


def _functional(model: Any) -> Any:
    found = model._functional if isinstance(model, keras.Sequential) else model
    if not isinstance(found, keras.src.models.functional.Functional):
        raise UsageError("a model that is no functional one has no order of layers")
    return found
