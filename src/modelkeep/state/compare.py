"""Where two states differ, bit by bit: NaN payloads, the sign of zero, dtype and shape all count."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from modelkeep.state.leaves import Array
from modelkeep.state.paths import ROOT, child, shown
from modelkeep.state.rows import BLOCK_BYTES, byte_view, row_axes, row_blocks
from modelkeep.state.tree import Tree, flatten, is_tensor, open_node
from modelkeep.values import Json


def differences(a: Tree, b: Tree, *, limit: int = 20) -> list[str]:
    """Compare two states bit for bit and say where they differ; an empty list means that they are the same.

    Each line names the path and both sides. At most ``limit`` lines are returned, then one that counts the rest. Byte
    order and memory layout are no difference, nor is the order of dict keys: a store does not keep those.

    Raises:
        UnsupportedState: either tree holds what a state cannot hold.

    >>> differences({"w": np.float32([1, 2])}, {"w": np.float32([1, 2.5])})
    ['w: float32 [2], 1 of 2 values differ, largest difference 0.5']
    >>> differences({"epoch": 1}, {"epoch": 1.0, "lr": 0.1})
    ['epoch: 1 in the first, 1.0 in the second', 'lr: only in the second']
    """
    first, second = flatten(a), flatten(b)
    lines: list[str] = []
    more = 0
    for line in _compared(first.structure, second.structure, ROOT, (first.arrays, second.arrays)):
        if len(lines) < limit:
            lines.append(line)
        else:
            more += 1
    return [*lines, f"and {more} more differences"] if more else lines


def _compared(a: Json, b: Json, path: str, arrays: tuple[dict[str, Array], dict[str, Array]]) -> Iterator[str]:
    open_a, open_b = open_node(a, path), open_node(b, path)
    if open_a is None or open_b is None or open_a[0] != open_b[0]:
        if is_tensor(a) and a == b:
            yield from _arrays_compared(arrays[0][path], arrays[1][path], path)
        elif not _same_json(a, b):
            yield f"{shown(path)}: {_said(a, path, arrays[0])} in the first, {_said(b, path, arrays[1])} in the second"
        return
    entries_a, entries_b = dict(open_a[1]), dict(open_b[1])
    for key, node in entries_a.items():
        if key in entries_b:
            yield from _compared(node, entries_b[key], child(path, key), arrays)
        else:
            yield f"{child(path, key)}: only in the first"
    for key in entries_b:
        if key not in entries_a:
            yield f"{child(path, key)}: only in the second"


def _same_json(a: Json, b: Json) -> bool:
    """Equality that tells 1 from 1.0 and True, and -0.0 from 0.0; leaves and their nodes only."""
    return type(a) is type(b) and repr(a) == repr(b)


def _said(node: Json, path: str, arrays: dict[str, Array]) -> str:
    if is_tensor(node):
        return _kind(arrays[path])
    opened = open_node(node, path)
    if opened is not None:
        return f"a {opened[0]} of {len(opened[1])}"
    if isinstance(node, dict):
        return f"{node.get('$')} {str(node.get('value'))[:40]}"
    return f"{node!r:.40}"


def _kind(array: Array) -> str:
    return f"{array.dtype.newbyteorder('=')} [{','.join(str(length) for length in array.shape)}]"


def _arrays_compared(a: Array, b: Array, path: str) -> Iterator[str]:
    if _kind(a) != _kind(b):
        yield f"{shown(path)}: {_kind(a)} in the first, {_kind(b)} in the second"
        return
    if a.dtype.kind == "O":
        count = sum(type(x) is not type(y) or x != y for x, y in zip(a.flat, b.flat, strict=True))
        largest = 0.0
    else:
        count, largest = _count_differing(a, b)
    if count:
        detail = f", largest difference {largest:.3g}" if largest else ""
        yield f"{shown(path)}: {_kind(a)}, {count} of {a.size} values differ{detail}"


def _count_differing(a: Array, b: Array) -> tuple[int, float]:
    """How many values differ in their bits, and the largest difference of those that are comparable numbers."""
    axes = row_axes(a.shape, a.dtype.itemsize)
    row_bytes = math.prod(a.shape[axes:]) * a.dtype.itemsize
    rows = max(1, BLOCK_BYTES // max(1, row_bytes))
    count, largest = 0, 0.0
    for (_, _, x), (_, _, y) in zip(row_blocks(a, axes, rows), row_blocks(b, axes, rows), strict=True):
        bytes_x, bytes_y = byte_view(x), byte_view(y)
        if np.array_equal(bytes_x, bytes_y):
            continue
        differs = (bytes_x != bytes_y).reshape(-1, a.dtype.itemsize).any(axis=1)
        count += int(differs.sum())
        largest = max(largest, _largest(x.reshape(-1)[differs], y.reshape(-1)[differs]))
    return count, largest


def _largest(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """The largest finite absolute difference, 0.0 where the values are no numbers."""
    if x.dtype.kind in "bUSmM":
        return 0.0
    wide = np.complex128 if x.dtype.kind in "cW" or "complex" in x.dtype.name else np.float64
    with np.errstate(all="ignore"):
        gaps = np.abs(x.astype(wide) - y.astype(wide))
    finite = gaps[np.isfinite(gaps)]
    return float(finite.max()) if finite.size else 0.0
