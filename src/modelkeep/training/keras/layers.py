"""What a model or layer of the user's own holds outside of variables.

It joins by two methods, as callbacks do: ``get_state() -> tree`` (arrays and JSON values) and ``set_state(tree)``. One
that has not, and whose attributes change from step to step, is named.
"""

from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend import KerasTensor

from modelkeep.frameworks.keras_names import flat_layers
from modelkeep.training.keras.mutations import attributes_changed_by
from modelkeep.training.keras.watch import shown

State = dict[str, Any]

_OF_FRAMEWORK = (keras.Variable, keras.layers.Layer, keras.metrics.Metric, keras.optimizers.Optimizer, KerasTensor)
"""Kinds of attributes that other parts of a checkpoint hold."""


def capture_layers(model: keras.Model) -> State:
    """The state of each layer that declares one, the model among them, by its place and class: ``0 Actor``."""
    return {name: layer.get_state() for name, layer in _own(model) if _declares(layer)}


def restore_layers(model: keras.Model, saved: State) -> None:
    """Put back what `capture_layers` returned."""
    for name, layer in _own(model):
        if name in saved and _declares(layer):
            layer.set_state(saved[name])


def missing_layers(model: keras.Model, saved: State) -> list[str]:
    """Name the layers whose state the checkpoint has not, and those of the checkpoint that declare none now."""
    present = {name for name, layer in _own(model) if _declares(layer)}
    return [
        f"layer {name} has get_state now and had none when the checkpoint was written"
        for name in sorted(present - saved.keys())
    ] + [
        f"layer {name} had get_state when the checkpoint was written and has none now"
        for name in sorted(saved.keys() - present)
    ]


class LayerWatch:
    """Compares attributes that methods of the user's own layers change, by what the source of these says."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._before: dict[str, dict[str, str]] | None = None

    def findings(self) -> list[str]:
        """A sentence for each layer that has changed since this was last asked; nothing the first time.

        Nothing either where steps are compiled: what such a step sets it sets when it is traced, in each process.
        """
        if keras.backend.backend() != "torch" and not self._model.run_eagerly:
            return []
        now = {name: _attributes(layer) for name, layer in _own(self._model) if not _declares(layer)}
        before, self._before = self._before, now
        if before is None:
            return []
        found = []
        for name, attributes in now.items():
            changed = sorted(key for key, value in attributes.items() if value != before.get(name, {}).get(key, value))
            if changed:
                found.append(_sentence(name.partition(" ")[2], changed))
        return found


def _sentence(kind: str, changed: list[str]) -> str:
    pairs = ", ".join(f'"{attribute}": self.{attribute}' for attribute in changed)
    names = ", ".join(f'"{attribute}"' for attribute in changed)
    return (
        f"{kind} changes {', '.join('self.' + attribute for attribute in changed)} from step to step, which is no "
        f"variable, so no checkpoint holds it; add `def get_state(self): return {{{pairs}}}` and a `set_state(self, "
        f"state)` that sets {names}, or make it a variable with add_weight(..., trainable=False)"
    )


def _own(model: keras.Model) -> Iterator[tuple[str, Any]]:
    for number, layer in enumerate(flat_layers(model)):
        if type(layer).__module__.partition(".")[0] != "keras":
            yield f"{number} {type(layer).__name__}", layer


def _declares(layer: Any) -> bool:
    return hasattr(layer, "get_state") and hasattr(layer, "set_state")


def _attributes(layer: Any) -> dict[str, str]:
    kind = type(layer)
    base = next(base for base in kind.__mro__ if base.__module__.partition(".")[0] == "keras")
    names = attributes_changed_by(kind, None, stop_at=base)
    values = {name: vars(layer)[name] for name in names if name in vars(layer)}
    return {name: shown(value) for name, value in values.items() if not isinstance(value, _OF_FRAMEWORK)}
