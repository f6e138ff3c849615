"""A state as a JSON structure plus arrays named by path, and back; and the part of a structure that a caller wants."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

import numpy as np

from modelkeep.errors import Damaged, NotFound, UnsupportedState
from modelkeep.state.leaves import INLINE_BYTES, Array, as_array, decode, encode
from modelkeep.state.paths import ROOT, Pattern, child, shown
from modelkeep.values import Json

Tree: TypeAlias = Any
"""Nested dict / list / tuple with leaves: numpy arrays and scalars, None, bool, int, float, str, bytes, complex."""

MAX_DEPTH = 64
"""Containers within containers; a cycle is caught here too."""

Entry = tuple[str | int, Json]


@dataclass(frozen=True, slots=True)
class FlatState:
    """``structure``: the tree as JSON, with ``{"$": "tensor"}`` where an array was. ``arrays``: path -> array."""

    structure: Json
    arrays: dict[str, Array]


def flatten(tree: Tree) -> FlatState:
    """Take a tree apart. Arrays are not copied; an array that stands twice in the tree is listed twice.

    Dicts are walked in sorted key order, integer keys before text keys, so that equal states have equal structures.
    Numpy scalars become 0-d arrays; ``bytes`` of more than 4 KiB become uint8 arrays that come back as ``bytes``.

    Raises:
        UnsupportedState: naming the path, what is there and the way out.

    >>> flat = flatten({"model": {"kernel": np.zeros((2, 3), "float32")}, "epoch": 3})
    >>> flat.structure
    {'epoch': 3, 'model': {'kernel': {'$': 'tensor'}}}
    >>> list(flat.arrays)
    ['model/kernel']
    """
    arrays: dict[str, Array] = {}
    return FlatState(_flatten(tree, ROOT, 0, arrays), arrays)


def _flatten(node: Tree, path: str, depth: int, arrays: dict[str, Array]) -> Json:
    if depth > MAX_DEPTH:
        raise UnsupportedState(f"{path[:80]}…: deeper than {MAX_DEPTH} containers, or a container that holds itself")
    if type(node) is dict:
        return _flatten_dict(node, path, depth, arrays)
    if type(node) is list or type(node) is tuple:
        items = [_flatten(item, child(path, index), depth + 1, arrays) for index, item in enumerate(node)]
        return items if type(node) is list else {"$": "tuple", "items": items}
    array = as_array(node, path)
    if array is not None:
        arrays[path] = array
        return {"$": "tensor"}
    if type(node) is bytes and len(node) > INLINE_BYTES:
        arrays[path] = np.frombuffer(node, np.uint8)
        return {"$": "tensor", "as": "bytes"}
    return encode(node, path)


def _flatten_dict(node: dict[Any, Any], path: str, depth: int, arrays: dict[str, Array]) -> Json:
    for key in node:
        if type(key) is not str and type(key) is not int:
            raise UnsupportedState(
                f"{shown(path)}: the dict key {key!r:.80} is of type {type(key).__name__}; keys are str or int"
            )
    keys = sorted(node, key=lambda key: (isinstance(key, str), key))
    items: list[tuple[Any, Json]] = [(key, _flatten(node[key], child(path, key), depth + 1, arrays)) for key in keys]
    if all(type(key) is str and not key.startswith("$") for key in keys):
        return dict(items)
    return {"$": "dict", "items": [[key, value] for key, value in items]}


def unflatten(structure: Json, arrays: Mapping[str, Array]) -> Tree:
    """Put a tree together again; the arrays are used as they are, not copied.

    What `select` left out of a list or tuple comes back as ``...``.

    Raises:
        NotFound: an array that the structure names is not among ``arrays``.
        UnknownFormat, Damaged: the structure is not one that `flatten` writes.

    >>> unflatten({"a": [{"$": "tensor"}, 1.5]}, {"a/0": np.arange(2)})
    {'a': [array([0, 1]), 1.5]}
    """
    return _unflatten(structure, ROOT, 0, arrays)


def _unflatten(node: Json, path: str, depth: int, arrays: Mapping[str, Array]) -> Tree:
    opened = open_node(node, path, depth)
    if opened is not None:
        kind, entries = opened
        values = [_unflatten(value, child(path, key), depth + 1, arrays) for key, value in entries]
        if kind == "dict":
            return dict(zip((key for key, _ in entries), values, strict=True))
        return values if kind == "list" else tuple(values)
    if not isinstance(node, dict):
        return node
    if node.get("$") == "absent":
        return ...
    if not is_tensor(node):
        return decode(node, path)
    if path not in arrays:
        raise NotFound(f"{shown(path)}: the structure has an array here, but none was given")
    array = arrays[path]
    if node.get("as") != "bytes":
        return array
    if array.dtype != np.uint8:
        raise Damaged(f"{shown(path)}: bytes should be stored as uint8, not as {array.dtype}")
    return array.tobytes()


def is_tensor(node: Json) -> bool:
    """Whether a node of a structure stands for an array."""
    return isinstance(node, dict) and (node in ({"$": "tensor"}, {"$": "tensor", "as": "bytes"}))


def open_node(node: Json, path: str, depth: int = 0) -> tuple[str, list[Entry]] | None:
    """The kind (``"dict"``, ``"list"`` or ``"tuple"``) and entries of a container node; None for a leaf.

    Raises:
        Damaged: a container that `flatten` does not write.
    """
    if depth > MAX_DEPTH:
        raise Damaged(f"{path[:80]}…: the structure is deeper than {MAX_DEPTH} containers")
    if isinstance(node, list):
        return "list", list(enumerate(node))
    if not isinstance(node, dict):
        return None
    if "$" not in node:
        return "dict", list(node.items())
    if node["$"] not in ("tuple", "dict"):
        return None
    items = node.get("items")
    if not isinstance(items, list) or len(node) != 2:
        raise Damaged(f"{shown(path)}: a {node['$']} node has no list of items")
    if node["$"] == "tuple":
        return "tuple", list(enumerate(items))
    entries = [_pair(item, path) for item in items]
    if len({key for key, _ in entries}) != len(entries):
        raise Damaged(f"{shown(path)}: a dict node has the same key twice")
    return "dict", entries


def _pair(item: Json, path: str) -> Entry:
    if not isinstance(item, list) or len(item) != 2:
        raise Damaged(f"{shown(path)}: a dict node has an item that is no pair of key and value")
    key = item[0]
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise Damaged(f"{shown(path)}: a dict node has the key {key!r:.80}; keys are text or integers")
    return key, item[1]


def leaf_paths(structure: Json) -> Iterator[tuple[str, Json]]:
    """Yield the path and node of each leaf, arrays and JSON values alike, in the order of `flatten`."""
    return _leaves(structure, ROOT, 0)


def _leaves(node: Json, path: str, depth: int) -> Iterator[tuple[str, Json]]:
    opened = open_node(node, path, depth)
    if opened is None:
        yield path, node
        return
    for key, value in opened[1]:
        yield from _leaves(value, child(path, key), depth + 1)


def tensor_paths(structure: Json) -> list[str]:
    """The paths of the arrays of a structure, in the order of `flatten`.

    >>> tensor_paths({"a": {"$": "tensor"}, "b": 3})
    ['a']
    """
    return [path for path, node in leaf_paths(structure) if is_tensor(node)]


def select(structure: Json, patterns: Sequence[str]) -> Json:
    """The part of a structure whose paths follow one of the glob ``patterns``.

    ``*`` matches within one segment, ``**`` any number of segments; a pattern that matches a container takes all of
    it. Entries of dicts that do not match are absent, items of lists and tuples come back as ``...``.

    Raises:
        NotFound: a pattern matches nothing, with paths that resemble it.

    >>> select({"model": {"kernel": {"$": "tensor"}}, "epoch": 3}, ["model/**"])
    {'model': {'kernel': {'$': 'tensor'}}}
    """
    if isinstance(patterns, str):
        patterns = [patterns]
    parsed = [Pattern(text) for text in patterns]
    used: set[str] = set()
    found = _select(structure, ROOT, 0, parsed, used)
    unused = [pattern.text for pattern in parsed if pattern.text not in used]
    if unused:
        paths = [path for path, _ in leaf_paths(structure)]
        near = get_close_matches(unused[0], paths, 3, 0.4) or paths[:3]
        raise NotFound(f"select pattern {unused[0]!r} matches nothing in the state; there is {', '.join(near)}")
    return {} if found is None else found[0]


def _select(node: Json, path: str, depth: int, patterns: list[Pattern], used: set[str]) -> tuple[Json] | None:
    """The part of ``node`` that is wanted, in a tuple (a wanted leaf may be None itself); None for nothing."""
    hits = [pattern.text for pattern in patterns if pattern.matches(path)]
    used.update(hits)
    opened = open_node(node, path, depth)
    if opened is None:
        return (node,) if hits else None
    kind, entries = opened
    parts = [(key, _select(value, child(path, key), depth + 1, patterns, used)) for key, value in entries]
    if hits:
        return (node,)
    if all(part is None for _, part in parts):
        return None
    if kind != "dict":
        items: list[Json] = [{"$": "absent"} if part is None else part[0] for _, part in parts]
        return (items,) if kind == "list" else ({"$": "tuple", "items": items},)
    kept = [(key, part[0]) for key, part in parts if part is not None]
    if isinstance(node, dict) and "$" in node:
        return ({"$": "dict", "items": [[key, value] for key, value in kept]},)
    return ({str(key): value for key, value in kept},)
