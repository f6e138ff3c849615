"""JSON of strangers: parsed within the budget, with its duplicate names told, and walked without recursion."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modelkeep.errors import LimitExceeded
from modelkeep.scan.source import Context


@dataclass(frozen=True, slots=True)
class Parsed:
    """A JSON value, and the names that stood twice in one object of it."""

    value: Any
    duplicates: tuple[str, ...]


def parse(data: bytes, where: str, context: Context) -> Parsed:
    """Parse UTF-8 JSON.

    Raises:
        LimitExceeded: more bytes or levels than the budget has.
        ValueError: not JSON.
    """
    context.budget.check("text", len(data), where)
    duplicates: list[str] = []

    def of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            duplicates.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return made

    try:
        return Parsed(json.loads(data.decode("utf-8"), object_pairs_hook=of_pairs), tuple(duplicates))
    except RecursionError:
        raise LimitExceeded(f"{where}: JSON nested deeper than the {context.budget.depth} levels allowed") from None


@dataclass(frozen=True, slots=True)
class Node:
    """A value within a JSON document. ``path`` is for people: ``config.layers.0.config.units``."""

    path: str
    key: str
    value: Any


def walk(value: Any, where: str, context: Context) -> Iterator[Node]:
    """Yield each value of the document, parents first. Raises LimitExceeded by depth (twice the budget's, since a layer
    within a layer is two objects and two lists deep) and by nodes.
    """
    pending: list[tuple[Node, int]] = [(Node("", "", value), 0)]
    count = 0
    while pending:
        node, depth = pending.pop()
        count += 1
        if count > _VALUES * context.budget.nodes:
            raise LimitExceeded(f"{where}: more values than a configuration of {context.budget.nodes:,} layers has")
        if depth > _LEVELS * context.budget.depth:
            raise LimitExceeded(f"{where}: JSON nested deeper than {_LEVELS * context.budget.depth} levels")
        yield node
        children = _children(node.value)
        pending.extend((Node(f"{node.path}.{key}" if node.path else key, key, one), depth + 1) for key, one in children)


_LEVELS = 4
_VALUES = 50


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return list(value.items())[::-1]
    if isinstance(value, list):
        return [(str(index), one) for index, one in enumerate(value)][::-1]
    return []
