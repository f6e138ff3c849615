"""``.keras``: the whole model, as Keras writes it."""

from pathlib import Path
from typing import Any

import keras

from modelkeep.errors import NotExact
from modelkeep.exporters.source import Source
from modelkeep.frameworks import keras as keras_door
from modelkeep.model import keras_model
from modelkeep.state import differences


def write(source: Source, path: Path) -> None:
    """Write a ``.keras`` file; with the optimizer, where it was kept. Raises UsageError for what is no Keras model."""
    source.model.save(path)


def check(source: Source, path: Path) -> None:
    """Load it with Keras, and compare weights, optimizer and the answers to the examples. Raises NotExact."""
    model = keras.models.load_model(path, custom_objects=dict(source.custom_objects))
    check_state(source, model, path.name)
    examples = source.store.load(source.snapshot, select=["examples/**"]) if source.part("examples") else None
    if examples is not None:
        inputs = examples["examples"]["inputs"]
        wrong = differences(keras_model.answers(source.model, inputs), keras_model.answers(model, inputs))
        if wrong:
            raise NotExact(f"{path.name}: loaded by Keras, it answers otherwise: {'; '.join(wrong[:4])}")


def check_state(source: Source, model: Any, where: str) -> None:
    """Compare the state of a model that was read back with that of the source."""
    wanted, found = keras_door.state_of(source.model), keras_door.state_of(model)
    wrong = differences(wanted["model"], found["model"])
    if source.part("optimizer") is not None:
        wrong += differences(wanted["optimizer"], found["optimizer"])
    if wrong:
        raise NotExact(f"{where}: loaded by Keras, it is not what was written: {'; '.join(wrong[:4])}")
