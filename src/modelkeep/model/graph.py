"""The graph of a functional model, as its configuration has it: whether Keras can connect it, and at what cost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelkeep.errors import Damaged, LimitExceeded

STEPS = 2_000_000
"""The most visits of layers while Keras connects a graph: it goes through all layers for each level it can add."""


def check_graph(config: Mapping[str, Any], where: str) -> None:
    """Compare the layers of a functional model with the names and node numbers that their calls refer to.

    Raises:
        Damaged: a call of a layer that is not there, or that comes from itself.
        LimitExceeded: layers in an order that takes Keras a quadratic number of steps.

    >>> call = {"class_name": "__keras_tensor__", "config": {"keras_history": ["b", 0, 0]}}
    >>> layer = {"name": "a", "config": {}, "inbound_nodes": [{"args": [call], "kwargs": {}}]}
    >>> check_graph({"layers": [layer]}, "model")
    Traceback (most recent call last):
        ...
    modelkeep.errors.Damaged: model: layer 'a' takes the output of 'b', which is no layer of this model
    """
    layers = config["layers"]
    calls: dict[str, list[list[tuple[str, int]]]] = {}
    for layer in layers:
        name = layer["name"]
        if name in calls:
            raise Damaged(f"{where}: two layers have the name {name!r:.100}")
        calls[name] = [list(_sources(call, 64)) for call in layer["inbound_nodes"]]
    slack = {layer["name"]: int("layers" in layer["config"]) for layer in layers}
    for name, nodes in calls.items():
        for source in {source for node in nodes for source, _ in node}:
            if source not in calls:
                raise Damaged(
                    f"{where}: layer {name!r:.100} takes the output of {source!r:.100}, which is no layer of this model"
                )
    _connect(calls, slack, where)


def _connect(calls: Mapping[str, Sequence[Sequence[tuple[str, int]]]], slack: Mapping[str, int], where: str) -> None:
    # A layer without calls is an input, which has one node from the start; a model within has its own node as well.
    made = {name: 0 if nodes else 1 for name, nodes in calls.items()}
    waiting = [name for name, nodes in calls.items() if nodes]
    steps = 0
    while waiting:
        before = sum(made[name] for name in waiting)
        steps += len(calls)
        for name in waiting:
            nodes = calls[name]
            while made[name] < len(nodes) and all(
                made[source] + slack[source] > number for source, number in nodes[made[name]]
            ):
                made[name] += 1
                steps += 1
        if steps > STEPS:
            raise LimitExceeded(
                f"{where}: Keras would take more than {STEPS:,} steps to connect {len(calls):,} layers in this order; "
                "list the layers in the order in which they are called"
            )
        if sum(made[name] for name in waiting) == before:
            raise Damaged(f"{where}: layer {waiting[0]!r:.100} takes an output that comes from itself, or from nowhere")
        waiting = [name for name in waiting if made[name] < len(calls[name])]


def _sources(value: Any, depth: int) -> Iterator[tuple[str, int]]:
    """The layers and node numbers that a call takes its tensors from, in the form of Keras 3 and that of Keras 2."""
    if isinstance(value, Mapping):
        history = _history(value)
        if history is not None:
            yield history[0], history[1]
            return
        value = list(value.values())
    if isinstance(value, list) and depth:
        if len(value) in {3, 4} and isinstance(value[0], str) and type(value[1]) is int and type(value[2]) is int:
            yield value[0], value[1]
            return
        for item in value:
            if isinstance(item, Mapping | list):
                yield from _sources(item, depth - 1)


def _history(value: Mapping[str, Any]) -> Sequence[Any] | None:
    if value.get("class_name") != "__keras_tensor__":
        return None
    history: Sequence[Any] | None = value["config"].get("keras_history")
    return history
