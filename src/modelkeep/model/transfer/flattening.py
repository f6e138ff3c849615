"""Where a layer sees a flattened image: torch flattens (channels, height, width), Keras (height, width, channels).

The weights behind a Flatten fit in shape either way, and give other outputs: the order of the rows has to change.
"""

from math import prod
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_SAME_FEATURES = (
    keras.layers.Dropout,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
)
_CHANNELS_FIRST_IN_TORCH = ("Conv", "Pooling", "ZeroPadding", "Cropping", "UpSampling", "BatchNormalization")
_FEATURES_LAST_IN_TORCH = ("LSTM", "GRU", "RNN", "Embedding", "Dense", "Attention", "LayerNormalization")
_STEPS = 10_000


def image_before(layer: Any) -> tuple[int, ...] | None:
    """The shape (spatial axes, channels) that a Flatten before ``layer`` takes, where torch would have another order.

    None where there is none, where the order is the same, and where the layers are not connected to be looked at (a
    subclassed model).

    >>> layers = [keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(5)]
    >>> image_before(keras.Sequential(layers).layers[-1])
    (2, 2, 2)
    """
    for _ in range(_STEPS):
        node = _node_before(layer)
        if node is None:
            return None
        if isinstance(node.operation, keras.layers.Flatten):
            return _image(node)
        if not isinstance(node.operation, _SAME_FEATURES):
            return None
        layer = node.operation
    return None


def from_torch(values: Array, image: tuple[int, ...]) -> Array:
    """The rows of ``values`` (flattened channels-first) in the order of a channels-last image.

    >>> from_torch(np.array(["r0", "r1", "g0", "g1"]), (2, 2)).tolist()
    ['r0', 'g0', 'r1', 'g1']
    """
    if not values.ndim or values.shape[0] != prod(image):
        return values
    channels_first = values.reshape(image[-1], *image[:-1], *values.shape[1:])
    return np.moveaxis(channels_first, 0, len(image) - 1).reshape(values.shape)


def _image(node: Any) -> tuple[int, ...] | None:
    flatten = node.operation
    shape = tuple(node.input_tensors[0].shape[1:])
    if flatten.data_format != "channels_last" or len(shape) < 2 or None in shape:
        return None
    if prod(shape[:-1]) == 1 or shape[-1] == 1 or not _channels(flatten, len(shape)):
        return None
    return shape


def _channels(layer: Any, rank: int) -> bool:
    """Whether the last axis of what ``layer`` takes is what torch has as its first: said by what it comes from."""
    for _ in range(_STEPS):
        node = _node_before(layer)
        if node is None:
            return False
        kind = type(node.operation).__name__
        if any(word in kind for word in _CHANNELS_FIRST_IN_TORCH):
            return True
        if any(word in kind for word in _FEATURES_LAST_IN_TORCH):
            return False
        if isinstance(node.operation, keras.layers.InputLayer):
            return rank > 2
        layer = node.operation
    return False


def _node_before(layer: Any) -> Any:
    """The call whose first result a layer takes; None where the layer has not been called on a symbolic tensor."""
    nodes = layer._inbound_nodes
    parents = nodes[-1].parent_nodes if nodes else ()
    return parents[0] if parents else None
