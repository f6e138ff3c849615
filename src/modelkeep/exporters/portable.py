"""A model in operations that the runtimes of devices have too. Imported in the converter's process alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from modelkeep.frameworks.keras_names import flat_layers

_MIXED = {"mixed_float16", "mixed_bfloat16"}


@contextmanager
def portable(model: Any) -> Iterator[None]:
    """Trace a model so that what it computes in half precision or in int8 is computed in float32.

    Mixed precision keeps its variables in float32, so it is the more exact of the two. A product of int8 arrays is
    exact in float32 up to a length of 1040, and beyond as exact as float32 is.
    """
    for layer in flat_layers(model):
        if layer.dtype_policy.name in _MIXED:
            layer.dtype_policy = "float32"
    operations = keras.src.backend.numpy
    before = {name: getattr(operations, name) for name in ("matmul", "einsum")}
    for name, operation in before.items():
        setattr(operations, name, _in_float(operation))
    try:
        yield
    finally:
        for name, operation in before.items():
            setattr(operations, name, operation)


def _in_float(operation: Callable[..., Any]) -> Callable[..., Any]:
    def compute(*operands: Any, **options: Any) -> Any:
        arrays = [one for one in operands if not isinstance(one, str)]
        if any(keras.backend.standardize_dtype(one.dtype) != "int8" for one in arrays):
            return operation(*operands, **options)
        cast = [one if isinstance(one, str) else tf.cast(one, "float32") for one in operands]
        return tf.cast(operation(*cast, **options), "int32")

    return compute
