"""The globals that a pickle of tensors and arrays needs; whatever else a pickle imports is a finding.

A list of what is known to be bad is never complete (the advisories of every pickle scanner show it); this one is of
what is known to be harmless, alone and in any combination: types and functions that only rebuild arrays.
"""

from typing import Final

from modelkeep.scan.opcodes import Name

_STORAGES = (
    "BFloat16", "Bool", "Byte", "Char", "ComplexDouble", "ComplexFloat", "Double", "Float", "Half", "Int", "Long",
    "QInt32", "QInt8", "QUInt2x4", "QUInt4x2", "QUInt8", "Short",
)  # fmt: skip
_TORCH_DTYPES = (
    "float16", "float32", "float64", "bfloat16", "complex32", "complex64", "complex128", "uint8", "uint16",
    "uint32", "uint64", "int8", "int16", "int32", "int64", "bool", "qint8", "quint8", "qint32", "quint4x2",
    "quint2x4", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
    "float4_e2m1fn_x2", "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2", "uint1", "uint2", "uint3", "uint4",
    "uint5", "uint6", "uint7", "int1", "int2", "int3", "int4", "int5", "int6", "int7", "per_tensor_affine",
    "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric", "per_channel_affine_float_qparams",
    "Size", "Tensor", "device",
)  # fmt: skip
_REBUILDS = (
    "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state",
    "_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage", "_rebuild_nested_tensor",
    "_rebuild_device_tensor_from_numpy", "_rebuild_device_tensor_from_cpu_tensor",
)  # fmt: skip
_BUILTINS = (
    "set", "frozenset", "bytearray", "bytes", "complex", "int", "float", "bool", "str", "list", "tuple", "dict",
    "slice", "range", "object",
)  # fmt: skip
_ML_DTYPES = (
    "bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn", "int1",
    "int2", "int4", "uint1", "uint2", "uint4",
)  # fmt: skip
_NUMPY_SCALARS = (
    "bool_", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "float32", "float64", "complex64", "complex128", "str_", "bytes_",
)  # fmt: skip

HARMLESS: Final = frozenset(
    {
        *(("torch", f"{name}Storage") for name in _STORAGES),
        *(("torch.cuda", f"{name}Storage") for name in _STORAGES),
        *(("torch.storage", name) for name in ("UntypedStorage", "TypedStorage", "_LegacyStorage")),
        *(("torch", name) for name in _TORCH_DTYPES),
        *(("torch._utils", name) for name in _REBUILDS),
        ("torch.nn.parameter", "Parameter"),
        ("torch.nn.parameter", "Buffer"),
        ("torch._tensor", "Tensor"),
        ("torch.serialization", "_get_layout"),
        *((module, name) for module in ("builtins", "__builtin__") for name in _BUILTINS),
        ("collections", "OrderedDict"),
        ("collections", "Counter"),
        ("collections", "defaultdict"),
        ("_codecs", "encode"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *(("numpy", name) for name in _NUMPY_SCALARS),
        *(
            (f"numpy.{core}.{module}", name)
            for core in ("core", "_core")
            for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
        ),
        *(("ml_dtypes", name) for name in _ML_DTYPES),
    }
)


def is_harmless(name: Name) -> bool:
    """Whether importing and calling this global can do no more than rebuild arrays and containers."""
    return name.module is not None and (name.module, name.name) in HARMLESS
