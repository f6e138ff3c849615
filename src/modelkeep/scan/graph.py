"""TensorFlow graphs read from their protobuf: nodes, functions, and where the value of an input comes from."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import final

from modelkeep.errors import LimitExceeded
from modelkeep.scan import wire

ARGUMENT = "argument"
"""The origin of a value that no node of the graph makes: what the caller, or the loader, gives."""
_STEPS = 2_000_000
_NODE, _LIBRARY = 1, 2
_PASS = {
    "Identity", "StringJoin", "ShardedFilename", "ShardedFilespec", "Pack", "Reshape", "ConcatV2", "Select", "SelectV2",
    "MergeV2Checkpoints", "StaticRegexFullMatch", "ReadVariableOp", "Squeeze", "ExpandDims", "StridedSlice", "Split",
}  # fmt: skip

_CALLS = {"PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile", "TPUPartitionedCall"}
_BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
"""Their first input says which function is called; the others are its arguments."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. ``calls`` are the functions that its attributes name."""

    name: str
    op: str
    inputs: tuple[str, ...]
    calls: tuple[str, ...]
    texts: tuple[bytes, ...]
    """Its constant texts: of a Const its value, else its text attributes."""
    scope: str
    """The function that it is part of, or the empty string for the graph itself."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the library: the names of its arguments, in order."""

    name: str
    arguments: tuple[str, ...]


@final
@dataclass(slots=True)
class Graph:
    """All nodes of a graph and of its functions."""

    nodes: list[Node] = field(default_factory=list)
    functions: dict[str, Function] = field(default_factory=dict)
    by_name: dict[tuple[str, str], Node] = field(default_factory=dict)
    callers: dict[str, list[Node]] = field(default_factory=lambda: defaultdict(list))
    assigned: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    steps: int = 0
    bound: dict[str, list[str]] = field(default_factory=dict)
    """Of functions that the loader calls: kinds of the objects of the model that it gives as their last arguments."""

    def add(self, node: Node) -> None:
        """Add one node."""
        self.nodes.append(node)
        self.by_name[node.scope, node.name] = node
        if node.op == "AssignVariableOp" and len(node.inputs) > 1:
            self.assigned[node.scope, node.inputs[0].split(":", 1)[0]].append(node.inputs[1])
        for name in (*node.calls, node.op):  # a function is called by an attribute, or as if it were an operation
            self.callers[name].append(node)

    def origins(self, node: Node, index: int) -> set[str | Node]:
        """What the value of an input is made from, through the callers of its function: nodes, ``ARGUMENT``, kinds.

        Raises LimitExceeded for a graph that is made to be walked without end.
        """
        found: set[str | Node] = set()
        seen: set[tuple[str, str]] = set()
        data = [one for one in node.inputs if not one.startswith("^")]
        pending = [(node.scope, data[index])] if index < len(data) else []
        while pending:
            scope, name = pending.pop()
            self.steps += 1
            if self.steps > _STEPS:
                raise LimitExceeded(f"a graph in which the names of files are made in more than {_STEPS:,} steps")
            base = name.split(":", 1)[0]
            if (scope, base) in seen:
                continue
            seen.add((scope, base))
            made = self.by_name.get((scope, base))
            if made is None:
                outer = list(self._outer(scope, base))
                pending.extend(one for one in outer if isinstance(one, tuple))
                given = [self._given(scope, base)] if not outer or scope in self.bound else []
                found.update(given, (one for one in outer if isinstance(one, Node)))
            elif made.op in _PASS:
                pending.extend((scope, one) for one in made.inputs if not one.startswith("^"))
            elif made.op in {"Placeholder", "_Arg", "PlaceholderWithDefault"}:
                found.add(ARGUMENT)
                pending.extend((scope, one) for one in made.inputs if not one.startswith("^"))
            elif made.op == "VarHandleOp" and (assigned := self._assigned(made)):
                pending.extend((scope, one) for one in assigned)
            else:
                found.add(made)
        return found

    def _given(self, scope: str, argument: str) -> str:
        """``ARGUMENT``, or the kind of the model's own object that the loader gives as this argument."""
        function, bound = self.functions.get(scope), self.bound.get(scope, [])
        if function is None or argument not in function.arguments:
            return ARGUMENT
        index = function.arguments.index(argument) - (len(function.arguments) - len(bound))
        return bound[index] if index >= 0 else ARGUMENT

    def _assigned(self, variable: Node) -> list[str]:
        """What the graph assigns to a variable; nothing when its value comes from the checkpoint alone."""
        return self.assigned.get((variable.scope, variable.name), [])

    def _outer(self, scope: str, argument: str) -> Iterator[tuple[str, str] | Node]:
        """What the callers of a function give as its argument; the caller itself where that cannot be told."""
        function = self.functions.get(scope)
        if function is None or argument not in function.arguments:
            return
        for caller in self.callers.get(scope, ()):
            data = [one for one in caller.inputs if not one.startswith("^")]
            index = function.arguments.index(argument) + (caller.op in _BRANCHES)
            if (caller.op in _CALLS or caller.op in _BRANCHES or caller.op == scope) and index < len(data):
                yield caller.scope, data[index]
            else:
                yield caller


def read(message: memoryview) -> Graph:
    """Read a GraphDef. Raises ValueError where its bytes break."""
    graph = Graph()
    for one in wire.messages(message, _NODE):
        graph.add(_node(one, ""))
    for function in wire.messages(message, _LIBRARY, 1):
        signature = next(wire.messages(function, 1), memoryview(b""))
        name = wire.text(signature, 1)
        arguments = tuple(wire.text(one, 1) for one in wire.messages(signature, 2))
        graph.functions[name] = Function(name, arguments)
        for one in wire.messages(function, 3):
            graph.add(_node(one, name))
    return graph


def _node(message: memoryview, scope: str) -> Node:
    name, op = "", ""
    inputs: list[str] = []
    calls: list[str] = []
    texts: list[bytes] = []
    for number, value in wire.fields(message):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            name = _decoded(value)
        elif number == 2:
            op = _decoded(value)
        elif number == 3:
            inputs.append(_decoded(value))
        elif number == 5:
            for attribute in wire.messages(value, 2):
                _of_attribute(attribute, calls, texts)
    return Node(name, op, tuple(inputs), tuple(calls), tuple(texts), scope)


def _of_attribute(attribute: memoryview, calls: list[str], texts: list[bytes]) -> None:
    """An AttrValue: 2 text, 8 tensor (its 8: texts), 10 function (its 1: name), 1 list (of 2 texts, 9 functions)."""
    for number, value in wire.fields(attribute):
        if not isinstance(value, memoryview):
            continue
        if number == 2:
            texts.append(bytes(value[:4096]))
        elif number == 8:
            texts.extend(bytes(one[:4096]) for one in wire.messages(value, 8))
        elif number == 10:
            calls.append(wire.text(value, 1))
        elif number == 1:
            texts.extend(bytes(one[:4096]) for one in wire.messages(value, 2))
            calls.extend(wire.text(one, 1) for one in wire.messages(value, 9))


def _decoded(value: memoryview) -> str:
    return bytes(value[:4096]).decode("utf-8", "replace")


def constants(origins: Iterable[str | Node]) -> list[str]:
    """The constant texts among the origins of a value."""
    found = [one for one in origins if isinstance(one, Node) and one.op in {"Const", "HostConst"}]
    return [text.decode("utf-8", "replace") for one in found for text in one.texts]
