"""The value of a Keras variable as numpy and back, bit for bit, on the backend that Keras runs on.

Keras's own ``convert_to_numpy`` copies, and moves bfloat16 through float32; the framework modules do neither.
"""

from typing import Any

import keras
import numpy as np

from modelkeep.errors import UnsupportedState
from modelkeep.frameworks.mismatch import Spec


def read(variable: Any, *, copy: bool) -> np.ndarray:
    """Return the value: with ``copy`` an array of its own, else a read-only one.

    That is a view where the backend never writes to a buffer that is held, and a copy on torch.

    Raises:
        UnsupportedState: the variable has no value yet, or one that numpy cannot hold.
    """
    value = value_of(variable)
    match keras.backend.backend():
        case "tensorflow":
            from modelkeep.frameworks import tensorflow

            return tensorflow.to_numpy(value, copy=copy)
        case "jax":
            from modelkeep.frameworks import jax

            return jax.to_numpy(value, copy=copy)
        case "torch":
            from modelkeep.frameworks import torch_tensors

            array = torch_tensors.to_numpy(value)
            return array.copy() if copy else array
        case _:
            return np.array(value)


def spec(variable: Any) -> Spec:
    """Return dtype and shape of the value as the backend holds it (torch keeps uint16 as int32)."""
    value = value_of(variable)
    match keras.backend.backend():
        case "tensorflow":
            dtype = np.dtype(value.dtype.as_numpy_dtype)
        case "torch":
            from modelkeep.frameworks import torch_tensors

            dtype = torch_tensors.dtype_of(value)
        case _:
            dtype = np.dtype(value.dtype)
    return Spec(dtype, tuple(int(size) for size in value.shape))


def write(variable: Any, array: np.ndarray, *, given: bool = False) -> None:
    """Assign an array of the variable's own dtype and shape, which may be reused afterwards unless it is ``given``."""
    match keras.backend.backend():
        case "tensorflow":
            from modelkeep.frameworks import tensorflow

            variable.assign(tensorflow.from_numpy(array, given=given))
        case "jax":
            from modelkeep.frameworks import jax

            variable.assign(jax.from_numpy(array, value_of(variable), given=given))
        case "torch":
            from modelkeep.frameworks import torch_tensors

            torch_tensors.assign(value_of(variable), array)
        case _:
            variable.assign(np.array(array))


def value_of(variable: Any) -> Any:
    """What the backend holds for a variable."""
    if not isinstance(variable, keras.Variable):
        return variable
    if variable._value is None:
        # Asked for its value, Keras would draw a new initial one.
        raise UnsupportedState(f"the variable {variable.path!r} has no value yet; build the model first")
    return variable._value
