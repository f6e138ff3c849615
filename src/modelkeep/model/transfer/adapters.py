"""From torch's names and layouts to those of Keras, by what the Keras layer is.

Each rule is what the two definitions say: torch keeps weights as (out, in, *kernel), Keras as (*kernel, in, out); torch
orders the gates of a GRU as reset, update, new, Keras as update, reset, new; torch flattens images channel by channel.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from modelkeep.model.transfer.flattening import from_torch, image_before

Array = NDArray[Any]
Change = Callable[..., Array]

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_NORMS = (keras.layers.LayerNormalization, keras.layers.GroupNormalization)


@dataclass(frozen=True, slots=True)
class Rule:
    """How one variable is made of tensors of a torch module. ``change`` is None where it is taken as it is."""

    variable: Any
    names: tuple[str, ...]
    change: Change | None = None
    note: str = ""


def rules(layer: Any, names: Collection[str]) -> list[Rule]:
    """The rules for a layer, given what the tensors of its torch module are called; none where it is no torch module.

    The layer number of recurrent modules is not part of a name: ``weight_ih``, ``weight_ih_reverse``.

    >>> layer = keras.layers.Dense(2)
    >>> layer.build((None, 3))
    >>> [(rule.variable.name, rule.names, rule.note) for rule in rules(layer, ["weight", "bias"])]
    [('kernel', ('weight',), 'transposed'), ('bias', ('bias',), '')]
    """
    for kinds, make in _ADAPTERS:
        if isinstance(layer, kinds):
            made = make(layer)
            return [rule for rule in made if rule.variable is not None and all(name in names for name in rule.names)]
    return []


def remark(layer: Any, names: Collection[str]) -> str:
    """What weights do not hold and outputs depend on, where a layer differs from torch's default; empty otherwise."""
    if isinstance(layer, (keras.layers.BatchNormalization, *_NORMS)) and "weight" in names:
        return f"epsilon is {layer.epsilon:g} here, 1e-05 by default in torch" if layer.epsilon != 1e-5 else ""
    return ""


def _dense(layer: Any) -> Iterator[Rule]:
    image = image_before(layer)
    if image is None:
        yield Rule(layer.kernel, ("weight",), np.transpose, "transposed")
    else:
        yield Rule(layer.kernel, ("weight",), partial(_flat_dense, image), "transposed, rows in channels-last order")
    yield Rule(layer.bias, ("bias",))


def _flat_dense(image: tuple[int, ...], weight: Array) -> Array:
    return from_torch(weight.T, image)


def _convolution(layer: Any) -> Iterator[Rule]:
    yield Rule(layer.kernel, ("weight",), _kernel_first, "(out, in, *kernel) to (*kernel, in, out)")
    yield Rule(layer.bias, ("bias",))


def _transposed(layer: Any) -> Iterator[Rule]:
    yield Rule(layer.kernel, ("weight",), _kernel_first, "(in, out, *kernel) to (*kernel, out, in)")
    yield Rule(layer.bias, ("bias",))


def _kernel_first(weight: Array) -> Array:
    return np.transpose(weight, (*range(2, weight.ndim), 1, 0)) if weight.ndim > 1 else weight


def _depthwise(layer: Any) -> Iterator[Rule]:
    change = partial(_per_channel, layer.depth_multiplier)
    yield Rule(layer.kernel, ("weight",), change, "(in * multiplier, 1, *kernel) to (*kernel, in, multiplier)")
    yield Rule(layer.bias, ("bias",))


def _per_channel(multiplier: int, weight: Array) -> Array:
    if weight.ndim < 3 or weight.shape[1] != 1 or weight.shape[0] % multiplier:
        return weight  # no depthwise convolution: its shape says so
    split = weight.reshape(weight.shape[0] // multiplier, multiplier, *weight.shape[2:])
    return np.transpose(split, (*range(2, split.ndim), 0, 1))


def _batch_norm(layer: Any) -> Iterator[Rule]:
    change, note = _features(layer)
    yield Rule(layer.gamma, ("weight",), change, note)
    yield Rule(layer.beta, ("bias",), change, note)
    yield Rule(layer.moving_mean, ("running_mean",), change, note)
    yield Rule(layer.moving_variance, ("running_var",), change, note)


def _norm(layer: Any) -> Iterator[Rule]:
    change, note = _features(layer)
    yield Rule(layer.gamma, ("weight",), change, note)
    yield Rule(layer.beta, ("bias",), change, note)


def _features(layer: Any) -> tuple[Change | None, str]:
    image = image_before(layer)
    return (None, "") if image is None else (partial(from_torch, image=image), "in channels-last order")


def _rms_norm(layer: Any) -> Iterator[Rule]:
    yield Rule(layer.scale, ("weight",))


def _embedding(layer: Any) -> Iterator[Rule]:
    yield Rule(getattr(layer, "_embeddings", None), ("weight",))


def _lstm(layer: Any, suffix: str = "") -> Iterator[Rule]:
    cell = layer.cell
    yield Rule(cell.kernel, (f"weight_ih{suffix}",), np.transpose, "transposed")
    yield Rule(cell.recurrent_kernel, (f"weight_hh{suffix}",), np.transpose, "transposed")
    yield Rule(cell.bias, (f"bias_ih{suffix}", f"bias_hh{suffix}"), np.add, "sum of both")


def _gru(layer: Any, suffix: str = "") -> Iterator[Rule]:
    cell, note = layer.cell, "transposed, gates r, z, n to z, r, n"
    yield Rule(cell.kernel, (f"weight_ih{suffix}",), _gates, note)
    yield Rule(cell.recurrent_kernel, (f"weight_hh{suffix}",), _gates, note)
    yield Rule(cell.bias, (f"bias_ih{suffix}", f"bias_hh{suffix}"), _gate_biases, "both, gates r, z, n to z, r, n")


def _gates(weight: Array) -> Array:
    if weight.shape[0] % 3:
        return weight
    reset, update, new = np.split(weight, 3)
    return np.concatenate([update, reset, new]).T


def _gate_biases(inputs: Array, recurrent: Array) -> Array:
    return np.stack([_gates(inputs), _gates(recurrent)])


def _bidirectional(layer: Any) -> Iterator[Rule]:
    for inside, suffix in ((layer.forward_layer, ""), (layer.backward_layer, "_reverse")):
        for kind, make in _RECURRENT:
            if isinstance(inside, kind):
                yield from make(inside, suffix)


def _attention(layer: Any) -> Iterator[Rule]:
    inner = ((layer._query_dense, "q"), (layer._key_dense, "k"), (layer._value_dense, "v"))
    for part, (dense, letter) in enumerate(inner):
        heads = tuple(dense.bias.shape) if dense.bias is not None else tuple(dense.kernel.shape[1:])
        note = f"{letter} of the projection, split into heads"
        yield Rule(dense.kernel, ("in_proj_weight",), partial(_heads, heads, 3, part), note)
        # Separate where keys or values have another width than queries.
        yield Rule(dense.kernel, (f"{letter}_proj_weight",), partial(_heads, heads, 1, 0), "split into heads")
        yield Rule(dense.bias, ("in_proj_bias",), partial(_head_biases, heads, part), note)
    out = layer._output_dense
    yield Rule(out.kernel, ("out_proj/weight",), partial(_joined, tuple(out.kernel.shape)), "transposed, by heads")
    yield Rule(out.bias, ("out_proj/bias",))


def _heads(heads: tuple[int, ...], parts: int, part: int, weight: Array) -> Array:
    rows = int(np.prod(heads))
    if weight.shape[0] != parts * rows:
        return weight
    return weight[part * rows : (part + 1) * rows].T.reshape(-1, *heads)


def _head_biases(heads: tuple[int, ...], part: int, bias: Array) -> Array:
    rows = int(np.prod(heads))
    return bias[part * rows : (part + 1) * rows].reshape(heads) if bias.shape[0] == 3 * rows else bias


def _joined(shape: tuple[int, ...], weight: Array) -> Array:
    return weight.T.reshape(*shape[:-1], -1) if weight.shape[1] == int(np.prod(shape[:-1])) else weight


_RECURRENT: tuple[tuple[Any, Callable[..., Iterator[Rule]]], ...] = (
    (keras.layers.LSTM, _lstm),
    (keras.layers.GRU, _gru),
    (keras.layers.SimpleRNN, _lstm),
)
_ADAPTERS: tuple[tuple[Any, Callable[..., Iterator[Rule]]], ...] = (
    (keras.layers.Dense, _dense),
    (_CONVOLUTIONS, _convolution),
    (_TRANSPOSED, _transposed),
    (_DEPTHWISE, _depthwise),
    (keras.layers.BatchNormalization, _batch_norm),
    (_NORMS, _norm),
    (keras.layers.RMSNormalization, _rms_norm),
    (keras.layers.Embedding, _embedding),
    (keras.layers.Bidirectional, _bidirectional),
    (keras.layers.MultiHeadAttention, _attention),
    *_RECURRENT,
)
