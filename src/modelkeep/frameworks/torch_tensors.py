"""The value of a torch tensor as numpy and back, bit for bit, whatever its dtype, strides and device."""

from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from modelkeep.errors import UnsupportedState
from modelkeep.frameworks.staging import SMALL, STAGING

Array = NDArray[Any]

_CARRIED: dict[torch.dtype, tuple[type[np.generic], np.dtype[Any]]] = {
    # What numpy has no dtype for crosses as integers of the same bits.
    torch.bfloat16: (np.uint16, np.dtype(ml_dtypes.bfloat16)),
    torch.float8_e4m3fn: (np.uint8, np.dtype(ml_dtypes.float8_e4m3fn)),
    torch.float8_e4m3fnuz: (np.uint8, np.dtype(ml_dtypes.float8_e4m3fnuz)),
    torch.float8_e5m2: (np.uint8, np.dtype(ml_dtypes.float8_e5m2)),
    torch.float8_e5m2fnuz: (np.uint8, np.dtype(ml_dtypes.float8_e5m2fnuz)),
    torch.float8_e8m0fnu: (np.uint8, np.dtype(ml_dtypes.float8_e8m0fnu)),
}
_CARRIERS = {dtype: (carrier, kind) for kind, (carrier, dtype) in _CARRIED.items()}
_VIEWS = {np.uint16: torch.uint16, np.uint8: torch.uint8}


def dtype_of(tensor: torch.Tensor) -> np.dtype[Any]:
    """Return the numpy (or ml_dtypes) dtype that holds the same bits.

    Raises:
        UnsupportedState: numpy has no such dtype (quantized, complex32, packed float4).

    >>> dtype_of(torch.zeros(2, dtype=torch.bfloat16))
    dtype(bfloat16)
    """
    if tensor.dtype in _CARRIED:
        return _CARRIED[tensor.dtype][1]
    try:
        dtype: np.dtype[Any] = torch.empty(0, dtype=tensor.dtype).numpy().dtype
    except (TypeError, RuntimeError) as error:
        raise UnsupportedState(
            f"a torch tensor of dtype {tensor.dtype} has no numpy dtype of the same bits; convert it first"
        ) from error
    return dtype


def check_dense(tensor: torch.Tensor) -> None:
    """Refuse tensors that are more or less than one block of values.

    Raises:
        UnsupportedState: the tensor is sparse, without data (``meta``, lazy), or a subclass with its own storage.
    """
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        kind, way_out = f"a {type(tensor).__name__}, which keeps its values its own way,", "gather or dequantize it"
    elif torch.nn.parameter.is_lazy(tensor):
        kind, way_out = "a lazy parameter without a shape yet", "run the module once"
    elif tensor.is_meta:
        kind, way_out = "a tensor on the meta device", "move it to a device with to_empty() and fill it"
    elif tensor.layout != torch.strided:
        kind, way_out = f"a tensor of layout {tensor.layout}", "pass x.to_dense()"
    else:
        return
    raise UnsupportedState(f"{kind} cannot be kept; {way_out}")


def to_numpy(tensor: torch.Tensor) -> Array:
    """Return a read-only copy of the same bits: torch updates in place, so a view would change under the reader.

    The memory of large copies is used again once the array is gone.

    Raises:
        UnsupportedState: as :func:`check_dense` and :func:`dtype_of`.

    >>> to_numpy(torch.ones(2, dtype=torch.bfloat16))
    array([1, 1], dtype=bfloat16)
    """
    check_dense(tensor)
    dtype = dtype_of(tensor)
    plain = tensor.detach().resolve_conj().resolve_neg()
    if plain.nbytes < SMALL:
        plain = plain.cpu()
        if plain.dtype in _CARRIED:
            plain = plain.view(_VIEWS[_CARRIED[plain.dtype][0]])
        array = np.array(plain.numpy(), order="C").view(dtype)
    else:
        memory = STAGING.take(plain.nbytes)
        torch.from_numpy(memory).view(plain.dtype).view(plain.shape).copy_(plain)
        array = memory.view(dtype).reshape(plain.shape)
    array.setflags(write=False)
    return array


def from_numpy(array: Array) -> torch.Tensor:
    """Return a tensor of the same bits on the CPU that shares no memory with ``array``.

    >>> from_numpy(np.ones(2, ml_dtypes.bfloat16)).dtype
    torch.bfloat16
    """
    owned = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    if owned.dtype in _CARRIERS:
        carrier, kind = _CARRIERS[owned.dtype]
        return torch.from_numpy(owned.view(carrier)).view(kind)
    return torch.from_numpy(owned)


def assign(tensor: torch.Tensor, array: Array) -> None:
    """Write an array of the same dtype and shape into a tensor in place, bit for bit, whatever its strides.

    >>> weight = torch.zeros(2)
    >>> assign(weight, np.float32([1, 2]))
    >>> weight.tolist()
    [1.0, 2.0]
    """
    with torch.no_grad():
        tensor.copy_(from_numpy(array))
