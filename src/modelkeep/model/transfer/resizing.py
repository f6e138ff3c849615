"""Weights whose size depends on the data: position embeddings that are stretched, vocabularies that have grown.

Done only where the caller asks for it: a resized weight is a guess at a good start, never the weight of the source.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.errors import UsageError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Vocabulary rows, by token: ``old`` names the rows of the source, ``new`` those of the model.

    A token that both know keeps its row; the others stay as the model has initialised them.
    """

    old: Sequence[str]
    new: Sequence[str]


Resize = str | Rows
"""``"resize"`` (linear along the sequence), ``"grid"`` (bilinear over a square of patches), ``"rows"`` (the first rows
that both have), or `Rows`."""


def resized(how: Resize, found: Array, initial: Array) -> tuple[Array, str] | None:
    """``found`` in the shape of ``initial``, and what was done; None where ``how`` does not lead to that shape.

    Raises:
        UsageError: ``how`` is none of the known ways, or lists of tokens that do not fit.

    >>> resized("rows", np.ones((2, 1)), np.zeros((3, 1)))[1]
    'rows: 2 kept, 1 as initialised'
    """
    if isinstance(how, Rows):
        return _by_token(how, found, initial)
    match how:
        case "rows":
            return _first_rows(found, initial)
        case "resize":
            return _along_sequence(found, initial)
        case "grid":
            return _over_grid(found, initial)
    raise UsageError(f'adapt: a weight is changed by "resize", "grid", "rows" or Rows(old, new), not by {how!r:.80}')


def _by_token(how: Rows, found: Array, initial: Array) -> tuple[Array, str] | None:
    if found.shape[1:] != initial.shape[1:] or not found.ndim:
        return None
    for tokens, rows, side in ((how.old, len(found), "source"), (how.new, len(initial), "model")):
        if len(tokens) != rows or len(set(tokens)) != rows:
            raise UsageError(
                f"adapt: Rows names {len(set(tokens))} different tokens for the {rows} rows of the {side}; name each "
                "row once, in order"
            )
    places = {token: row for row, token in enumerate(how.old)}
    result = initial.astype(found.dtype)
    pairs = [(row, places[token]) for row, token in enumerate(how.new) if token in places]
    for row, place in pairs:
        result[row] = found[place]
    return result, f"rows by token: {len(pairs)} kept, {len(initial) - len(pairs)} as initialised"


def _first_rows(found: Array, initial: Array) -> tuple[Array, str] | None:
    if found.shape[1:] != initial.shape[1:] or not found.ndim:
        return None
    kept = min(len(found), len(initial))
    result = initial.astype(found.dtype)
    result[:kept] = found[:kept]
    return result, f"rows: {kept} kept, {len(initial) - kept} as initialised"


def _along_sequence(found: Array, initial: Array) -> tuple[Array, str] | None:
    axis = _sequence_axis(found, initial)
    if axis is None:
        return None
    size = initial.shape[axis]
    return _linear(found, axis, size), f"resized linearly from {found.shape[axis]} to {size}"


def _over_grid(found: Array, initial: Array) -> tuple[Array, str] | None:
    axis = _sequence_axis(found, initial)
    if axis is None:
        return None
    rows = np.moveaxis(found, axis, 0)
    old, new = isqrt(len(rows)), isqrt(initial.shape[axis])
    first = len(rows) - old * old  # tokens before the patches, such as the class token
    if initial.shape[axis] - new * new != first:
        return None
    grid = rows[first:].reshape(old, old, *rows.shape[1:])
    grid = _linear(_linear(grid, 0, new), 1, new).reshape(new * new, *rows.shape[1:])
    result = np.moveaxis(np.concatenate([rows[:first], grid]), 0, axis)
    return result, f"resized bilinearly from {old} x {old} to {new} x {new}"


def _sequence_axis(found: Array, initial: Array) -> int | None:
    """The only axis in which they differ, which must not be the last: that is the width of the model."""
    if found.ndim != initial.ndim:
        return None
    axes = [axis for axis, sizes in enumerate(zip(found.shape, initial.shape, strict=True)) if sizes[0] != sizes[1]]
    fits = len(axes) == 1 and axes[0] < found.ndim - 1 and found.size > 0 and initial.size > 0
    return axes[0] if fits else None


def _linear(values: Array, axis: int, size: int) -> Array:
    """Linear interpolation along an axis with aligned edges of pixels, as image libraries and torch do it."""
    old = values.shape[axis]
    places = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, old - 1)
    shape = [1] * values.ndim
    shape[axis] = size
    part = (places - low).reshape(shape)
    wide = values.astype(np.float64)
    mixed = np.take(wide, low, axis) * (1 - part) + np.take(wide, high, axis) * part
    return np.asarray(mixed.astype(values.dtype))
