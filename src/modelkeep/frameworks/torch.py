"""PyTorch: modules, optimizers, schedulers and any trees of tensors as a state tree."""

import ml_dtypes
import numpy as np
import torch

from modelkeep.errors import UnsupportedState

_CARRIED: dict[torch.dtype, tuple[torch.dtype, np.dtype]] = {
    # What numpy has no dtype for crosses as integers of the same bits.
    torch.bfloat16: (torch.uint16, np.dtype(ml_dtypes.bfloat16)),
    torch.float8_e4m3fn: (torch.uint8, np.dtype(ml_dtypes.float8_e4m3fn)),
    torch.float8_e4m3fnuz: (torch.uint8, np.dtype(ml_dtypes.float8_e4m3fnuz)),
    torch.float8_e5m2: (torch.uint8, np.dtype(ml_dtypes.float8_e5m2)),
    torch.float8_e5m2fnuz: (torch.uint8, np.dtype(ml_dtypes.float8_e5m2fnuz)),
    torch.float8_e8m0fnu: (torch.uint8, np.dtype(ml_dtypes.float8_e8m0fnu)),
}
_CARRIERS = {dtype: (carrier, kind) for kind, (carrier, dtype) in _CARRIED.items()}


def dtype_of(tensor: torch.Tensor) -> np.dtype:
    """Return the numpy (or ml_dtypes) dtype that holds the same bits.

    Raises:
        UnsupportedState: numpy has no such dtype (quantized, complex32, packed float4).

    >>> dtype_of(torch.zeros(2, dtype=torch.bfloat16))
    dtype(bfloat16)
    """
    if tensor.dtype in _CARRIED:
        return _CARRIED[tensor.dtype][1]
    try:
        return torch.empty(0, dtype=tensor.dtype).numpy().dtype
    except (TypeError, RuntimeError) as error:
        raise UnsupportedState(
            f"a torch tensor of dtype {tensor.dtype} has no numpy dtype of the same bits; convert it first"
        ) from error


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return a copy as an array of the same bits: torch updates in place, so a view would change under the reader.

    Raises:
        UnsupportedState: the tensor is sparse, has no data (``meta``) or a dtype that numpy cannot hold.

    >>> to_numpy(torch.ones(2, dtype=torch.bfloat16))
    array([1, 1], dtype=bfloat16)
    """
    if tensor.layout != torch.strided or tensor.is_meta:
        layout = "meta" if tensor.is_meta else str(tensor.layout)
        raise UnsupportedState(f"a torch tensor of layout {layout} cannot be kept; make it dense and on a device")
    dtype = dtype_of(tensor)
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    if plain.dtype in _CARRIED:
        plain = plain.view(_CARRIED[plain.dtype][0])
    return np.array(plain.numpy(), order="C").view(dtype)


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """Return a tensor of the same bits that shares no memory with ``array``.

    >>> from_numpy(np.ones(2, ml_dtypes.bfloat16)).dtype
    torch.bfloat16
    """
    owned = np.array(array, order="C")
    if owned.dtype in _CARRIERS:
        carrier, kind = _CARRIERS[owned.dtype]
        return torch.from_numpy(owned.view(np.uint16 if carrier == torch.uint16 else np.uint8)).view(kind)
    return torch.from_numpy(owned)


def assign(tensor: torch.Tensor, array: np.ndarray) -> None:
    """Write an array of the same dtype and shape into a tensor in place, bit for bit, whatever its strides.

    >>> weight = torch.zeros(2)
    >>> assign(weight, np.float32([1, 2]))
    >>> weight.tolist()
    [1.0, 2.0]
    """
    with torch.no_grad():
        tensor.copy_(from_numpy(array))
