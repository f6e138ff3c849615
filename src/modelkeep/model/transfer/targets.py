"""The weights of a model as a transfer sees them: by path, with the layer that holds each."""

from typing import Any

from modelkeep.frameworks import keras as keras_door
from modelkeep.frameworks import keras_arrays
from modelkeep.frameworks.keras_names import not_weights
from modelkeep.frameworks.mismatch import show
from modelkeep.model.transfer.choosing import Choice
from modelkeep.model.transfer.matching import Target


def targets_of(model: Any, choice: Choice) -> tuple[list[Target], dict[str, Any]]:
    """The weights of the model, and its layers by path (those that hold weights, and what these are in)."""
    left_out = not_weights(model)
    owners, parents = _containment(model)
    targets, layers = [], {"": model}
    for keys, variable in keras_door.variables_of(model)["model"].items():  # type: ignore[union-attr]  # never None
        if id(variable) in left_out:
            continue
        path, owner = show(keys), owners.get(id(variable))
        spec = keras_arrays.spec(variable)
        targets.append(Target(path, variable, spec, owner, choice.wants(path)))
        holder = path.rpartition("/")[0]
        while holder and owner is not None:
            layers.setdefault(holder, owner)
            holder, owner = holder.rpartition("/")[0], parents.get(id(owner))
    paths = [target.path for target in targets]
    for patterns in (choice.only, choice.skip):
        patterns.check_used(paths)
    for patterns, _ in choice.sizes.values():
        for path in paths:
            patterns.matches(path)
        patterns.check_used(paths)
    return targets, layers


def _containment(model: Any) -> tuple[dict[int, Any], dict[int, Any]]:
    """The layer that holds each variable, and the layer that holds each layer: the first, as in their names."""
    owners: dict[int, Any] = {}
    parents: dict[int, Any] = {}
    seen: set[int] = set()

    def visit(layer: Any) -> None:
        seen.add(id(layer))
        for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
            owners.setdefault(id(variable), layer)
        for inside in layer._layers:
            if id(inside) not in seen:
                parents[id(inside)] = layer
                visit(inside)

    visit(model)
    return owners, parents
