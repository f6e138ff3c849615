"""What a Keras variable is called: by layer containment, the same in every process and on every backend.

Keras numbers automatic names through the whole process (``dense`` in one, ``dense_7`` in another), so they are
numbered again, in order, within the layer that holds them. Names that a person gave are kept.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.trainers.compile_utils import CompileMetrics

from modelkeep.errors import UnsupportedState
from modelkeep.frameworks.mismatch import Path

Variable = Any
"""A ``keras.Variable``, or a ``torch.Tensor`` that a wrapped torch module holds as a buffer."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A name that a part of a container would like; an automatic one may be numbered."""

    name: str
    automatic: bool = False


def model_variables(model: Any) -> dict[Path, Variable]:
    """Return each variable of a model, its seed generators included, once, by path, in the order of the layers.

    Raises:
        UnsupportedState: the model lists a variable that no layer holds.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(2, name="head")])
    >>> list(model_variables(model))
    [('dense', 'kernel'), ('dense', 'bias'), ('head', 'kernel'), ('head', 'bias')]
    """
    found = dict(_in_layer(model, (), set()))
    _check_complete(model.variables, found.values(), "model.variables")
    return found


def metric_variables(model: Any) -> dict[Path, Variable]:
    """Return each metric variable of a model once, by the metric's name, those of ``compile`` and the loss included.

    Raises:
        UnsupportedState: the model lists a metric variable that no metric holds.
    """
    metrics = list(_flat_metrics(model.metrics))
    found: dict[Path, Variable] = {}
    seen: set[int] = set()
    for metric, name in zip(metrics, unique_names(_wish(metric) for metric in metrics), strict=True):
        found.update(_in_metric(metric, (name,), seen))
    _check_complete(model.metrics_variables, found.values(), "model.metrics_variables")
    return found


def flat_layers(layer: Any) -> Iterator[Any]:
    """Yield a layer and all layers inside it, each once."""
    seen: set[int] = set()
    stack = [layer]
    while stack:
        current = stack.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            stack.extend(reversed(current._layers))


def not_weights(model: Any) -> set[int]:
    """The ids of what a model holds beside weights: states of random generators and of stateful recurrent layers."""
    seeds = {id(seeds.state) for layer in flat_layers(model) for seeds in layer._seed_generators}
    return seeds | {id(variable) for variable in carried_variables(model)}


def carried_variables(model: Any) -> list[Variable]:
    """What stateful recurrent layers carry from batch to batch; Keras does not list it as variables of the model."""
    return [variable for layer in flat_layers(model) for variable in _carried(layer)]


def unique_names(wishes: Iterable[Wish]) -> list[str]:
    """Return a name for each wish, no two the same: given names are kept, others take the next free number.

    >>> unique_names([Wish("dense", True), Wish("head"), Wish("dense", True)])
    ['dense', 'head', 'dense_1']
    """
    listed = list(wishes)
    given = {wish.name for wish in listed if not wish.automatic}
    first = set(given)
    taken = set(given)
    counts: Counter[str] = Counter()
    names = []
    for wish in listed:
        if not wish.automatic and wish.name in first:
            first.remove(wish.name)
            names.append(wish.name)
            continue
        names.append(_next_free(wish.name, counts, taken))
    return names


def _next_free(base: str, counts: Counter[str], taken: set[str]) -> str:
    while True:
        name = f"{base}_{counts[base]}" if counts[base] else base
        counts[base] += 1
        if name not in taken:
            taken.add(name)
            return name


def _in_layer(layer: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, Variable]]:
    variables = [*layer._trainable_variables, *layer._non_trainable_variables]
    own: list[tuple[Wish, Any]] = [(_wish(variable), variable) for variable in _distinct(variables)]
    own += [(_wish(seeds), seeds.state) for seeds in _distinct(layer._seed_generators)]
    own += [(Wish("state", automatic=True), variable) for variable in _carried(layer)]
    if type(layer).__name__ == "TorchModuleWrapper":
        own = _of_torch_module(layer)
    inside = _distinct(layer._layers)
    names = unique_names([*(wish for wish, _ in own), *(_wish(child, layer) for child in inside)])
    for name, (_, variable) in zip(names, own, strict=False):
        if id(variable) not in seen:
            seen.add(id(variable))
            yield (*path, name), variable
    for name, child in zip(names[len(own) :], inside, strict=True):
        if id(child) not in seen:
            seen.add(id(child))
            yield from _in_layer(child, (*path, name), seen)


def _carried(layer: Any) -> list[Variable]:
    if not isinstance(layer, keras.layers.RNN) or not layer.stateful or layer.states is None:
        return []
    return _distinct(keras.tree.flatten(layer.states))


def _of_torch_module(layer: Any) -> list[tuple[Wish, Any]]:
    # Keras wraps only the parameters, and by number; the buffers (BatchNorm's running mean) are state too.
    names = {id(parameter): name for name, parameter in layer.module.named_parameters()}
    variables = [*layer._trainable_variables, *layer._non_trainable_variables]
    own = [(Wish(names.get(id(variable._value), variable.name)), variable) for variable in variables]
    return own + [(Wish(name), buffer) for name, buffer in layer.module.named_buffers() if buffer is not None]


def _in_metric(metric: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, Variable]]:
    own, inside = _distinct(metric._variables), _distinct(metric._metrics)
    names = unique_names(_wish(part) for part in [*own, *inside])
    for name, variable in zip(names, own, strict=False):
        if id(variable) not in seen:
            seen.add(id(variable))
            yield (*path, name), variable
    for name, child in zip(names[len(own) :], inside, strict=True):
        yield from _in_metric(child, (*path, name), seen)


def _flat_metrics(metrics: Sequence[Any]) -> Iterator[Any]:
    for metric in _distinct(metrics):
        if isinstance(metric, CompileMetrics):
            yield from _distinct(metric.metrics)
        else:
            yield metric


def _wish(part: Any, parent: Any = None) -> Wish:
    base = _snake(type(part).__name__)
    if isinstance(parent, keras.layers.Bidirectional):
        # Its two layers are called after the layer that it was given, automatic number included.
        match = re.fullmatch(rf"((?:forward|backward)_{base})_\d+", part.name)
        return Wish(match[1], automatic=True) if match else Wish(part.name)
    if re.fullmatch(rf"{re.escape(base)}(_\d+)?", part.name):
        return Wish(base, automatic=True)
    return Wish(part.name)


def _snake(name: str) -> str:
    # As Keras makes its automatic names.
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _distinct(parts: Iterable[Any]) -> list[Any]:
    return list({id(part): part for part in parts}.values())


def _check_complete(listed: Iterable[Any], placed: Iterable[Any], where: str) -> None:
    known = {id(variable) for variable in placed}
    for variable in listed:
        if id(variable) not in known:
            raise UnsupportedState(
                f"{where} holds {variable.path!r} ({variable.dtype} {list(variable.shape)}), "
                "but no layer or metric inside the model does; assign it to an attribute of the layer that uses it"
            )
