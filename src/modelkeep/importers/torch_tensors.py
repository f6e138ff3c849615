"""Tensors of a torch pickle as descriptions: which storage, where in it, what shape. Nothing of torch is imported."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelkeep.errors import Damaged, UnknownFormat
from modelkeep.importers.pickles import Global, check_key
from modelkeep.snapshot.dtypes import numpy_dtype

_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "ByteStorage": "uint8", "CharStorage": "int8", "ShortStorage": "int16", "IntStorage": "int32",
    "LongStorage": "int64", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "int8", "QUInt8Storage": "uint8", "QInt32Storage": "int32",
}  # fmt: skip
STORAGES = {
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.cuda.{name}": dtype for name, dtype in _STORAGES.items()},
    **dict.fromkeys(("torch.storage.UntypedStorage", "torch.storage._UntypedStorage"), "uint8"),
}
"""The global of a storage's class -> its dtype; an untyped one counts bytes."""

_NAMES = [
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "complex32",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
]
DTYPES = {f"torch.{name}": name for name in _NAMES} | {
    "torch.float": "float32", "torch.double": "float64", "torch.half": "float16", "torch.long": "int64",
}  # fmt: skip

_UNREADABLE = {
    "_rebuild_sparse_tensor": "is sparse; save tensor.to_dense()",
    "_rebuild_sparse_csr_tensor": "is sparse; save tensor.to_dense()",
    "_rebuild_qtensor": "is quantized; save tensor.dequantize(), or its int_repr() and scales",
    "_rebuild_meta_tensor_no_storage": "is on the device 'meta' and has no values",
    "_rebuild_nested_tensor": "is nested; save its parts",
    "_rebuild_wrapper_subclass": "belongs to a subclass; save it as a plain tensor",
    "_rebuild_device_tensor_from_numpy": "was saved from another kind of device; save tensor.cpu()",
    "_rebuild_device_tensor_from_cpu_tensor": "was saved from another kind of device; save tensor.cpu()",
    "_rebuild_xla_tensor": "was saved from an XLA device; save tensor.cpu()",
}
_CONTAINERS = ("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.Tensor")


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of values in the file; ``key`` finds its bytes, ``start`` is where a view of it begins, in bytes."""

    key: str
    dtype: str
    nbytes: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor: ``offset`` and ``stride`` count values of ``dtype`` in ``storage``."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    conjugate: bool = False
    negative: bool = False


def call(where: str, name: str, arguments: tuple[Any, ...]) -> Any:
    """The value of a call that a pickle asks for, all of them known ones.

    Raises:
        UnknownFormat: a kind of tensor whose values cannot be had without torch.
        Damaged: arguments that the call does not take.
    """
    kind = name.rpartition(".")[2]
    if kind in _UNREADABLE:
        raise UnknownFormat(f"{where}: a tensor in it {_UNREADABLE[kind]}")
    try:
        return _CALLS[name](where, *arguments)
    except KeyError:
        raise UnknownFormat(f"{where}: its pickle calls {name!r:.200}, which has no value") from None
    except (TypeError, ValueError, IndexError) as error:
        raise Damaged(f"{where}: {name} with arguments that it does not take: {error!s:.200}", where) from None


def _tensor(
    where: str, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any, dtype: str = "", metadata: Any = None
) -> Stored:
    if not isinstance(storage, Storage) or not _is_sizes([offset]) or not _is_sizes(shape) or not _is_sizes(stride):
        raise ValueError("a storage, an offset, a shape and strides are wanted")
    if len(shape) != len(stride):
        raise ValueError("shape and strides have different lengths")
    bits = metadata if isinstance(metadata, dict) else {}
    tensor = Stored(
        storage, dtype or storage.dtype, offset, tuple(shape), tuple(stride),
        bits.get("conj") is True, bits.get("neg") is True,
    )  # fmt: skip
    check_view(where, tensor)
    return tensor


def _is_sizes(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _tensor_v2(where: str, *arguments: Any) -> Stored:
    return _tensor(where, *arguments[:6], metadata=arguments[6] if len(arguments) > 6 else None)


def _tensor_v3(where: str, *arguments: Any) -> Stored:
    kind = arguments[6]
    if not isinstance(kind, Global) or kind.name not in DTYPES:
        raise UnknownFormat(f"{where}: a tensor in it has the dtype {getattr(kind, 'name', '?')!r:.80}, not known here")
    metadata = arguments[7] if len(arguments) > 7 else None
    return _tensor(where, *arguments[:6], dtype=DTYPES[kind.name], metadata=metadata)


def _same(_: str, data: Any = None, *rest: Any) -> Any:  # noqa: ARG001 - requires_grad, hooks: no part of the values
    return data


def _subclass(where: str, function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with Python attributes, which are passed over."""
    if not isinstance(function, Global) or not isinstance(kind, Global) or kind.name not in _CONTAINERS:
        raise ValueError("a tensor or a parameter is wanted")
    if _CALLS.get(function.name) is _subclass:
        raise ValueError("a subclass of a subclass")  # which may be its own
    return call(where, function.name, tuple(arguments))


def _pairs(where: str, pairs: Any = ()) -> dict[Any, Any]:
    items = list(pairs.items()) if isinstance(pairs, dict) else [tuple(pair) for pair in pairs]
    for key, _ in items:
        check_key(where, key)
    return dict(items)


def _encoded(_: str, text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes are spelled as latin1")
    return text.encode("latin1")


def _complex(_: str, real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _listed(_: str, items: Any = ()) -> list[Any]:
    return list(items)


def _sized(_: str, items: Any = ()) -> tuple[Any, ...]:
    return tuple(items)


def _bytes(_: str, data: Any = b"", *_more: Any) -> bytes:
    return data if isinstance(data, bytes) else b""


def _device(_: str, *parts: Any) -> str:
    if not all(isinstance(part, str | int) for part in parts):
        raise ValueError("a name and a number are wanted")
    return ":".join(str(part)[:_NAME] for part in parts[:2])


_NAME = 80

_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.nn.parameter.Parameter": _same,
    "torch.Size": _sized,
    "torch.device": _device,
    "torch.serialization._get_layout": _device,
    "collections.OrderedDict": _pairs,
    "collections.Counter": _pairs,
    "_codecs.encode": _encoded,
    **dict.fromkeys(("builtins.set", "__builtin__.set"), _listed),
    **dict.fromkeys(("builtins.bytearray", "__builtin__.bytearray"), _bytes),
    **dict.fromkeys(("builtins.complex", "__builtin__.complex"), _complex),
}
ALLOWED = frozenset(
    [
        *_CALLS,
        *STORAGES,
        *DTYPES,
        *_CONTAINERS,
        *(f"torch._utils.{name}" for name in _UNREADABLE),
        "torch.per_tensor_affine",
        "torch.per_channel_affine",
        "torch.per_channel_affine_float_qparams",
    ]
)
"""The globals that a pickle of weights may name."""


def check_view(where: str, tensor: Stored) -> None:
    """Refuse a tensor that reaches past its storage.

    Raises:
        Damaged: it does.
    """
    first, past = reach(tensor)
    if past > tensor.storage.nbytes:
        raise Damaged(
            f"{where}: a tensor of shape {tensor.shape!s:.100} takes the bytes {first:,} to {past:,} of storage "
            f"{tensor.storage.key!r:.80}, which has {tensor.storage.nbytes:,}",
            where,
        )


def reach(tensor: Stored) -> tuple[int, int]:
    """The first byte of its storage that a tensor takes, and the one behind its last."""
    size = numpy_dtype(tensor.dtype).itemsize
    if 0 in tensor.shape:
        return 0, 0
    last = sum((axis - 1) * step for axis, step in zip(tensor.shape, tensor.stride, strict=True))
    return tensor.offset * size, (tensor.offset + last + 1) * size


def is_dense(tensor: Stored) -> bool:
    """Whether its values lie one behind the other in C order."""
    wanted = 1
    for axis, step in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if axis != 1 and step != wanted:
            return 0 in tensor.shape
        wanted *= axis
    return True
