"""``.keras``: the whole model, as Keras writes it."""

from pathlib import Path
from typing import Any

import keras

from modelkeep.errors import NotExact
from modelkeep.exporters.source import Source
from modelkeep.frameworks import keras as keras_door
from modelkeep.frameworks import keras_arrays
from modelkeep.frameworks.keras_names import carried_variables, flat_layers, not_weights
from modelkeep.frameworks.mismatch import show
from modelkeep.model import keras_model
from modelkeep.model.load import difference
from modelkeep.state import differences, flatten


def write(source: Source, path: Path) -> None:
    """Write a ``.keras`` file; with the optimizer, where it was kept. Raises UsageError for what is no Keras model."""
    source.model.save(path)


def check(source: Source, path: Path) -> None:
    """Load it with Keras, and compare weights, optimizer and the answers to the examples. Raises NotExact."""
    model = keras.models.load_model(path, custom_objects=dict(source.custom_objects))
    check_state(source, model, path.name, optimizer=source.part("optimizer") is not None)
    examples = source.store.load(source.snapshot, select=["examples/**"]) if source.part("examples") else None
    if examples is not None:
        inputs = examples["examples"]["inputs"]
        for ours, theirs in zip(carried_variables(source.model), carried_variables(model), strict=True):
            theirs.assign(ours)  # the file has no place for it
        wanted = flatten(keras_model.answers(source.model, inputs)).arrays
        found = flatten(keras_model.answers(model, inputs)).arrays
        for name, array in wanted.items():
            if fault := difference(array, found.get(name)):
                raise NotExact(f"{path.name}: loaded by Keras, it answers otherwise: {name or 'the output'} {fault}")


def check_state(source: Source, model: Any, where: str, *, optimizer: bool = False) -> None:
    """Compare the weights of a model that was read back, and perhaps its optimizer, with those of the source."""
    wrong = differences(_weights(source.model), _weights(model))
    if optimizer:
        wrong += differences(keras_door.state_of(source.model)["optimizer"], keras_door.state_of(model)["optimizer"])
    if wrong:
        raise NotExact(f"{where}: loaded by Keras, it is not what was written: {'; '.join(wrong[:4])}")


def _weights(model: Any) -> dict[str, Any]:
    """All that Keras' files hold as it is: no states of generators and layers, and LoRA only merged into kernels."""
    left_out = not_weights(model)
    left_out |= {id(one) for layer in flat_layers(model) if _is_adapted(layer) for one in layer.variables}
    found = keras_door.variables_of(model)["model"] or {}
    return {show(path): keras_arrays.read(one, copy=False) for path, one in found.items() if id(one) not in left_out}


def _is_adapted(layer: Any) -> bool:
    return bool(getattr(layer, "lora_enabled", False))
