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
    """Trace a model so that what it computes in half precision or in int8 is computed in float32, and sums as products.

    Mixed precision keeps its variables in float32, so it is the more exact of the two. A product of int8 arrays is
    exact in float32 up to a length of 1040, and beyond as exact as float32 is. An einsum of attention is a product of
    matrices, which TensorFlow.js has on each of its backends.
    """
    for layer in flat_layers(model):
        if layer.dtype_policy.name in _MIXED:
            layer.dtype_policy = "float32"
    operations = keras.src.backend.numpy
    replaced = {
        (operations, "matmul"): _in_float(operations.matmul),
        (operations, "einsum"): _in_float(operations.einsum),
        (tf, "einsum"): _as_matmul(tf.einsum),
    }
    before = {place: getattr(*place) for place in replaced}
    for (owner, name), operation in replaced.items():
        setattr(owner, name, operation)
    try:
        yield
    finally:
        for (owner, name), operation in before.items():
            setattr(owner, name, operation)


def _in_float(operation: Callable[..., Any]) -> Callable[..., Any]:
    def compute(*operands: Any, **options: Any) -> Any:
        arrays = [one for one in operands if not isinstance(one, str)]
        if any(keras.backend.standardize_dtype(one.dtype) != "int8" for one in arrays):
            return operation(*operands, **options)
        cast = [one if isinstance(one, str) else tf.cast(one, "float32") for one in operands]
        return tf.cast(operation(*cast, **options), "int32")

    return compute


def _as_matmul(operation: Callable[..., Any]) -> Callable[..., Any]:
    """An einsum of two arrays as a product of matrices where it is one: one axis is summed, and each has one alone."""

    def compute(equation: str, *operands: Any, **options: Any) -> Any:
        terms = equation.replace(" ", "").replace("->", ",").split(",")
        if len(operands) != 2 or len(terms) != 3 or not all(term.isalpha() for term in terms):
            return operation(equation, *operands, **options)
        first, second, out = terms
        both = [one for one in first if one in second]
        batch, summed = ([one for one in both if (one in out) is kept] for kept in (True, False))
        rows, columns = ([one for one in term if one not in both] for term in (first, second))
        plain = all(len(set(term)) == len(term) for term in terms) and sorted(out) == sorted([*batch, *rows, *columns])
        if not plain or [len(one) for one in (rows, columns, summed)] != [1, 1, 1]:
            return operation(equation, *operands, **options)
        left, right = (
            tf.transpose(operand, [term.index(one) for one in order])
            for operand, term, order in zip(
                operands, (first, second), ([*batch, *rows, *summed], [*batch, *summed, *columns]), strict=True
            )
        )
        given = [*batch, *rows, *columns]
        return tf.transpose(tf.matmul(left, right), [given.index(one) for one in out])

    return compute
