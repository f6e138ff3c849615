"""TensorFlow: variables, modules and plain trees of tensors as a state tree."""

import numpy as np
import tensorflow as tf


def to_numpy(value: tf.Tensor | tf.Variable, *, copy: bool = False) -> np.ndarray:
    """Return the value as an array of the same bits; strings come as an object array of bytes.

    Without ``copy`` the array is a read-only view: TensorFlow copies a buffer before it writes to one that is
    still held, so that later assignments do not change the view.

    >>> v = tf.Variable([1.0, 2.0])
    >>> view = to_numpy(v)
    >>> _ = v.assign([3.0, 4.0])
    >>> view.tolist()
    [1.0, 2.0]
    """
    tensor = value.read_value() if isinstance(value, tf.Variable) else value
    if tensor.dtype == tf.string:
        return np.array(tensor.numpy(), dtype=object)
    dtype = np.dtype(tensor.dtype.as_numpy_dtype)
    if dtype.kind in "biufc" and dtype.isbuiltin == 1:
        array = np.asarray(memoryview(tensor))
    elif dtype.itemsize in _CARRIERS and tensor.dtype.size == dtype.itemsize:
        # The buffer protocol has no letter for bfloat16 and float8: the same bytes go out as integers.
        array = np.asarray(memoryview(tf.bitcast(tensor, _CARRIERS[dtype.itemsize]))).view(dtype)
    else:
        return np.array(tensor.numpy())
    return array.copy() if copy else array


_CARRIERS = {1: tf.uint8, 2: tf.uint16}


def from_numpy(array: np.ndarray) -> tf.Tensor:
    """Return a tensor of the same bits that shares no memory with ``array``.

    >>> from_numpy(np.float32([1, 2])).numpy().tolist()
    [1.0, 2.0]
    """
    return tf.constant(array)
