"""What a ``PyDataset`` changes between epochs: its own ``get_state``, else the attributes its epoch hooks touch."""

from typing import Any

import numpy as np
from keras.utils import PyDataset

from modelkeep.training.keras.mutations import attributes_changed_by


def capture(dataset: PyDataset) -> dict[str, Any]:
    """Return the dataset's state as a tree: ``get_state()``, or the attributes that ``on_epoch_*`` change."""
    if hasattr(dataset, "get_state") and hasattr(dataset, "set_state"):
        return {"own": dataset.get_state()}
    return {"attributes": {name: _freeze(getattr(dataset, name)) for name in changing_attributes(dataset)}}


def restore(dataset: PyDataset, state: dict[str, Any]) -> None:
    """Put back what ``capture`` returned."""
    if "own" in state:
        dataset.set_state(state["own"])
        return
    for name, value in state.get("attributes", {}).items():
        current = getattr(dataset, name, None)
        if isinstance(current, np.random.Generator):
            current.bit_generator.state = value
        elif isinstance(current, np.random.RandomState):
            current.set_state(value)
        else:
            setattr(dataset, name, value)


def changing_attributes(dataset: PyDataset) -> list[str]:
    """Names of the attributes that ``on_epoch_begin`` and ``on_epoch_end`` of the dataset change."""
    return sorted(
        name
        for name in attributes_changed_by(type(dataset), ("on_epoch_begin", "on_epoch_end"), stop_at=PyDataset)
        if hasattr(dataset, name)
    )


def _freeze(value: Any) -> Any:
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    if isinstance(value, np.ndarray):
        return value.copy()
    return list(value) if isinstance(value, list) else value
