"""A new state from one that is kept: parts of it by record, other leaves beside them, and not a byte of it is read.

Tensors are named by the digests of their pieces, so a record can name them again, under other paths too. They are
written again only where their shards are just being collected.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from modelkeep.backend import Backend
from modelkeep.errors import Damaged, NotFound, UnsupportedState
from modelkeep.snapshot import Snapshot
from modelkeep.state.paths import ROOT, child, shown
from modelkeep.state.tree import FlatState, flatten, leaf_paths, open_node, tensor_paths
from modelkeep.store.load import read_tensors
from modelkeep.store.save import Donor
from modelkeep.values import Json

_UNREAD = np.empty(0, np.uint8)
"""Stands where an array would be that is not looked at."""


@dataclass(frozen=True, slots=True)
class Part:
    """In a tree that is promoted: what the source has at ``path``, a leaf or all that is below it."""

    path: str = ROOT


@dataclass(frozen=True, slots=True)
class Graft:
    """A state to be saved some of whose tensors are those of a snapshot."""

    source: Snapshot
    state: FlatState
    kept: Mapping[str, str]
    """The tensors of the source: path in the state -> path in the source."""

    @classmethod
    def of(cls, source: Snapshot, tree: Any) -> "Graft":
        """Put a tree together in which a `Part` may stand as any value of a dict with text keys.

        Raises:
            NotFound: a part that the source does not have; close paths are listed.
            UnsupportedState: a leaf that cannot be kept bit for bit, or a part where none can stand.
        """
        parts: dict[tuple[str, ...], Part] = {}
        flat = flatten(_without_parts(tree, (), parts))
        structure: Json = flat.structure
        kept: dict[str, str] = {}
        for keys, part in parts.items():
            structure = _with(structure, keys, _subtree(source.structure, part.path))
            path = ROOT
            for key in keys:
                path = child(path, key)
            kept.update(_renamed(source, part.path, path))
        try:
            paths = tensor_paths(structure)
        except Damaged as error:  # what was shallow enough lies deeper now
            raise UnsupportedState(str(error)) from None
        return cls(source, FlatState(structure, {path: flat.arrays.get(path, _UNREAD) for path in paths}), kept)

    def donor(self, without: AbstractSet[str]) -> Donor:
        """The pieces of the source but for those in the shards ``without``."""
        places = {piece: place for piece, place in self.source.places.items() if place.shard not in without}
        shards = {name: info for name, info in self.source.shards.items() if name not in without}
        specs = {path: self.source.tensors[origin] for path, origin in self.kept.items()}
        return Donor(places, shards, {path: spec for path, spec in specs.items() if places.keys() >= {*spec.pieces}})

    def read_back(self, backend: Backend, donor: Donor) -> FlatState:
        """The state with those arrays read that ``donor`` does not have.

        Raises:
            Damaged: one of them is gone, or is not what was written.
        """
        wanted = {path: origin for path, origin in self.kept.items() if path not in donor.unchanged}
        if not wanted:
            return self.state
        read = read_tensors(backend, self.source, sorted(set(wanted.values())))
        return FlatState(self.state.structure, {**self.state.arrays, **{to: read[at] for to, at in wanted.items()}})


def _without_parts(node: Any, keys: tuple[str, ...], parts: dict[tuple[str, ...], Part]) -> Any:
    """``node`` with None in place of its parts, which are collected by their keys."""
    if isinstance(node, Part):
        parts[keys] = node
        return None
    if type(node) is dict and all(type(key) is str and not key.startswith("$") for key in node):
        return {key: _without_parts(value, (*keys, key), parts) for key, value in node.items()}
    return node


def _with(structure: Json, keys: tuple[str, ...], part: Json) -> Json:
    """A structure with ``part`` at the end of ``keys``; only the dicts on the way are copied."""
    if not keys:
        return part
    assert isinstance(structure, dict), "a dict with text keys is an object"
    return {**structure, keys[0]: _with(structure[keys[0]], keys[1:], part)}


def _subtree(structure: Json, wanted: str) -> Json:
    """The node at a path of a structure. Raises NotFound."""
    node, path, depth = structure, ROOT, 0
    while path != wanted:
        opened = open_node(node, path, depth)
        entries = {child(path, key): value for key, value in opened[1]} if opened is not None else {}
        path = next((one for one in entries if wanted == one or wanted.startswith(f"{one}/")), "")
        if not path:
            paths = [leaf for leaf, _ in leaf_paths(structure)]
            near = get_close_matches(wanted, paths, 3, 0.4) or paths[:3]
            raise NotFound(f"there is no {shown(wanted):.200} in the state; there is {', '.join(near)}")
        node, depth = entries[path], depth + 1
    return node


def _renamed(source: Snapshot, origin: str, target: str) -> dict[str, str]:
    """The tensors at and below ``origin`` by the paths that they get at ``target``."""
    found: dict[str, str] = {}
    for path in source.tensors:
        if path == origin:
            found[target] = path
        elif origin == ROOT or path.startswith(f"{origin}/"):
            rest = path if origin == ROOT else path[len(origin) + 1 :]
            found[f"{target}/{rest}" if target else rest] = path
    return found
