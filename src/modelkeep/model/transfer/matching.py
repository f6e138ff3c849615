"""Which tensor is meant for which weight: by name, then by the only way in which shapes fit; never by position.

Names that Keras gives by itself (``dense``, ``dense_1``) are positions in disguise. They count as names only where both
sides have the very same ones; else only shapes decide, and where two fit alike, the weight is missing and says so.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras.src.utils.naming import to_snake_case
from numpy.typing import NDArray

from modelkeep.frameworks.mismatch import Spec
from modelkeep.model.transfer.adapters import Change, remark, rules
from modelkeep.model.transfer.sources import Piece

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Target:
    """One variable of the model; ``wanted`` is False where the caller has left it out."""

    path: str
    variable: Any
    spec: Spec
    owner: Any
    wanted: bool


@dataclass(slots=True)
class Node:
    """A layer with its variables, or a group of tensors, and what is inside it."""

    path: str
    leaves: dict[str, Any] = field(default_factory=dict)
    children: dict[str, "Node"] = field(default_factory=dict)
    layer: Any = None

    def below(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Each leaf in it by its path from here."""
        for name, leaf in self.leaves.items():
            yield prefix + name, leaf
        for name, node in self.children.items():
            yield from node.below(f"{prefix}{name}/")


@dataclass(frozen=True, slots=True)
class Source:
    """What a variable is made of. ``how``: by name, by number, or by structure."""

    pieces: tuple[Piece, ...]
    how: str
    change: Change | None = None
    note: str = ""
    remark: str = ""

    def shape(self) -> tuple[int, ...] | None:
        """The shape that it will have, without reading anything; None where the change cannot be made of these."""
        if self.change is None:
            return self.pieces[0].spec.shape
        try:
            return self.change(*(np.broadcast_to(np.False_, piece.spec.shape) for piece in self.pieces)).shape
        except (ValueError, IndexError):  # tensors of another rank, or that do not belong together
            return None


@dataclass(slots=True)
class Matches:
    """Sources by the path of the variable, and why others have none."""

    found: dict[str, Source] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def match(targets: Sequence[Target], layers: Mapping[str, Any], tensors: Sequence[Piece]) -> Matches:
    """Find for each wanted target the tensors that are meant for it; ``layers`` holds the model's layers by path."""
    left, right = Node("", layer=layers.get("")), Node("")
    for target in targets:
        node, name = _place(left, target.path)
        node.leaves[name] = target
    for path, node in _nodes(left):
        node.layer = layers.get(path)
    for piece in tensors:
        node, name = _place(right, piece.path)
        node.leaves[name] = piece
    matches = Matches()
    _Matcher({}).match(left, right, "name", matches)
    return matches


def _place(root: Node, path: str) -> tuple[Node, str]:
    *parents, name = path.split("/")
    if len(parents) > 1 and parents[-1] == "vars":  # Keras files number the variables of a layer
        parents, name = parents[:-1], f"#{name}"
    for part in parents:
        inner = f"{root.path}/{part}" if root.path else part
        root = root.children.setdefault(part, Node(inner))
    return root, name


def _nodes(node: Node) -> Iterator[tuple[str, Node]]:
    yield node.path, node
    for child in node.children.values():
        yield from _nodes(child)


@dataclass(slots=True)
class _Matcher:
    """``fitting`` remembers which groups fit which layers."""

    fitting: dict[tuple[int, int], bool]

    def match(self, target: Node, source: Node, how: str, into: Matches) -> None:
        self._adapt(target, source, how, into)
        numbered = _numbered(target.layer)
        for name, leaf in target.leaves.items():
            piece = source.leaves.get(name) or source.leaves.get(f"#{numbered.get(id(leaf.variable))}")
            if leaf.wanted and leaf.path not in into.found and piece is not None:
                into.found[leaf.path] = Source((piece,), how)
        for child, group, why in self._pairs(target, source, into):
            self.match(child, group, why if why != "name" or how == "name" else how, into)

    def _adapt(self, target: Node, source: Node, how: str, into: Matches) -> None:
        named = dict(source.below())
        wanted = {id(leaf.variable): leaf for _, leaf in target.below() if leaf.wanted}
        said = remark(target.layer, named)
        for rule in rules(target.layer, named):
            leaf = wanted.get(id(rule.variable))
            if leaf is not None and leaf.path not in into.found and not _own_names(target, named):
                given = tuple(named[name] for name in rule.names)
                into.found[leaf.path] = Source(given, how, rule.change, rule.note, said)

    def _pairs(self, target: Node, source: Node, into: Matches) -> Iterator[tuple[Node, Node, str]]:
        left = {name: node for name, node in target.children.items() if any(leaf.wanted for _, leaf in node.below())}
        left = {name: node for name, node in left.items() if not all(_done(leaf, into) for _, leaf in node.below())}
        right = dict(source.children)
        for name, node in list(left.items()):
            group, how = _named(name, node, target, source)
            if group is not None and right.pop(group, None) is not None:
                del left[name]
                yield node, source.children[group], how
        yield from self._by_structure(left, right, into)

    def _by_structure(
        self, left: Mapping[str, Node], right: Mapping[str, Node], into: Matches
    ) -> Iterator[tuple[Node, Node, str]]:
        fits = {name: [one for one, group in right.items() if self._fits(node, group)] for name, node in left.items()}
        for name, groups in fits.items():
            rivals = [other for other, theirs in fits.items() if set(groups) & set(theirs)]
            if len(groups) == 1 and len(rivals) == 1:
                yield left[name], right[groups[0]], "structure"
                continue
            if not groups:
                continue
            fitting = " and ".join(right[one].path for one in groups[:4])
            others = f", as {' and '.join(left[one].path for one in rivals if one != name)}" if len(rivals) > 1 else ""
            for _, leaf in left[name].below():
                into.reasons[leaf.path] = f"{name} could be {fitting} of the source{others}: say which with rename"

    def _fits(self, target: Node, source: Node) -> bool:
        """Whether every variable finds a tensor of its shape, every tensor a variable, and none is left out."""
        key = id(target), id(source)
        if key not in self.fitting:
            self.fitting[key] = self._try(target, source)
        return self.fitting[key]

    def _try(self, target: Node, source: Node) -> bool:
        leaves = [leaf for _, leaf in target.below()]
        if not all(leaf.wanted for leaf in leaves):
            return False
        trial = Matches()
        self.match(target, source, "structure", trial)
        used = {piece.path for found in trial.found.values() for piece in found.pieces}
        given = {piece.path for name, piece in source.below() if not name.endswith("num_batches_tracked")}
        return used == given and all(
            leaf.path in trial.found and trial.found[leaf.path].shape() == leaf.spec.shape for leaf in leaves
        )


def _done(leaf: Target, into: Matches) -> bool:
    return not leaf.wanted or leaf.path in into.found


def _own_names(target: Node, named: Mapping[str, Piece]) -> bool:
    """Whether the source calls the variables as the layer does, so that it is Keras' layout already."""
    names = [name for name, _ in target.below()]
    return all(name in named for name in names)


def _numbered(layer: Any) -> dict[int, int]:
    """The numbers that Keras files give to the variables of a layer."""
    if layer is None or not isinstance(layer, keras.layers.Layer):
        return {}
    variables = [*layer._trainable_variables, *layer._non_trainable_variables]
    return {id(variable): number for number, variable in enumerate(variables)}


def _named(name: str, node: Node, target: Node, source: Node) -> tuple[str | None, str]:
    """The group of the source that is called as a layer is, and whether a person or a number says so."""
    if name in source.children:
        base = to_snake_case(type(node.layer).__name__)
        automatic = re.compile(rf"{re.escape(base)}(_\d+)?")
        if not automatic.fullmatch(name) or _renamed(source.children[name]):
            return name, "name"
        ours = {
            other
            for other, child in target.children.items()
            if automatic.fullmatch(other) and type(child.layer) is type(node.layer)
        }
        theirs = {other for other in source.children if automatic.fullmatch(other)}
        return (name, "name" if len(ours) == 1 else "number") if ours == theirs else (None, "")
    if target.layer is None or node.layer is None:
        return None, ""
    for attribute, value in vars(target.layer).items():
        alias = attribute.lstrip("_")  # as Keras files call what a layer is made of
        if value is node.layer and alias in source.children:
            return alias, "name"
    return None, ""


def _renamed(node: Node) -> bool:
    return any(piece.renamed for _, piece in node.below())
