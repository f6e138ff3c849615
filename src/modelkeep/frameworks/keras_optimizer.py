"""What the variables of a Keras optimizer are called: slots by the model variable that they belong to."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from modelkeep.frameworks.mismatch import Path

_RESERVED = frozenset({"slots", "inner", "variables", "others"})
_NOT_SLOTS = frozenset({"_variables", "_trainable_variables"})


@dataclass(frozen=True, slots=True)
class _Slot:
    """One list of an optimizer that runs parallel to the model variables that it trains."""

    attribute: str
    name: str
    variables: Sequence[Any]


def optimizer_variables(optimizer: Any, model_paths: Mapping[int, Path]) -> dict[Path, Any]:
    """Return each variable of an optimizer once, by path.

    ``model_paths`` gives the path of each model variable by ``id``. Scalars are called after their attribute
    (``iterations``, ``learning_rate``), slots ``slots/<slot>/<model variable path>``; the variables of wrapped
    optimizers lie under ``inner``, and what is left under ``variables/<n>`` by position.

    >>> optimizer, weight = keras.optimizers.SGD(momentum=0.9), keras.Variable([1.0], name="w")
    >>> optimizer.build([weight])
    >>> list(optimizer_variables(optimizer, {id(weight): ("dense", "w")}))
    [('iterations',), ('learning_rate',), ('slots', 'momentum', 'dense', 'w')]
    """
    inner = _inner(optimizer)
    below = {id(variable) for _, child in inner for variable in child.variables}
    own = {id(variable): (n, variable) for n, variable in enumerate(optimizer.variables) if id(variable) not in below}
    found: dict[Path, Any] = {}
    for attribute, value in vars(optimizer).items():
        name = attribute.lstrip("_")
        if isinstance(value, keras.Variable) and id(value) in own and (name,) not in found and name not in _RESERVED:
            found[(name,)] = own.pop(id(value))[1]
    for slot in _slots(optimizer):
        for reference, variable in zip(optimizer._trainable_variables, slot.variables, strict=True):
            path = ("slots", slot.name, *model_paths.get(id(reference), ()))
            if id(variable) in own and id(reference) in model_paths and path not in found:
                found[path] = own.pop(id(variable))[1]
    for position, variable in own.values():
        found[("variables", position)] = variable
    for prefix, child in inner:
        for path, variable in optimizer_variables(child, model_paths).items():
            found[(*prefix, *path)] = variable
    return found


def _inner(optimizer: Any) -> list[tuple[Path, Any]]:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return [(("inner",), optimizer.inner_optimizer)]
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return [(("inner", n), child) for n, child in enumerate(optimizer.optimizers)]
    return []


def _slots(optimizer: Any) -> list[_Slot]:
    references = optimizer._trainable_variables
    parallel = [
        (attribute, value)
        for attribute, value in vars(optimizer).items()
        if attribute not in _NOT_SLOTS and isinstance(value, list | tuple) and len(value) == len(references)
        if all(part is None or isinstance(part, keras.Variable) for part in value)
    ]
    suffixes = {attribute: _suffix(value, references) for attribute, value in parallel}
    counts = Counter(suffixes.values())
    return [_Slot(attribute, _chosen(attribute, suffixes[attribute], counts), value) for attribute, value in parallel]


def _chosen(attribute: str, suffix: str, counts: Counter[str]) -> str:
    return suffix if suffix and counts[suffix] == 1 else attribute.lstrip("_")


def _suffix(slot: Sequence[Any], references: Sequence[Any]) -> str:
    # Keras calls a slot "<path of the model variable>_<slot>"; that word is the same on every backend.
    suffixes = set()
    for variable, reference in zip(slot, references, strict=True):
        if variable is not None:
            prefix = f"{reference.path.replace('/', '_')}_"
            suffixes.add(variable.name.removeprefix(prefix) if variable.name.startswith(prefix) else "")
    return suffixes.pop() if len(suffixes) == 1 else ""
