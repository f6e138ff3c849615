"""TensorFlow's C library, by ctypes: a SavedModel is run as TensorFlow Serving runs it, and Python's TensorFlow is not
imported, which takes most of its time to start.

The interface: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/c/c_api.h
"""

import ctypes
import importlib.util
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from modelkeep.errors import Damaged, UsageError
from modelkeep.importers.protobuf import BYTES, fields, signed
from modelkeep.importers.source import Memory, read_bytes
from modelkeep.model.signature import TensorInfo
from modelkeep.runtime.table import Arrays, Inputs

SIGNATURE = "serving_default"

_STRING = 7
_DTYPES: dict[int, Any] = {
    1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8, 8: np.complex64, 9: np.int64,
    10: np.bool_, 14: ml_dtypes.bfloat16, 17: np.uint16, 18: np.complex128, 19: np.float16, 22: np.uint32,
    23: np.uint64,
}  # fmt: skip
_NUMBERS = {np.dtype(dtype): number for number, dtype in _DTYPES.items()}
_TSTRING = 24
"""Bytes of a ``TF_TString``."""


class _Output(ctypes.Structure):
    _fields_ = [("oper", c_void_p), ("index", c_int)]


class _Buffer(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("length", c_size_t), ("free", c_void_p)]


def load(path: Path, *, threads: int | None = None, signature: str = SIGNATURE) -> "Session":
    """Open a signature of a SavedModel, or of the folder of an export that has one.

    Raises:
        Damaged: the library cannot open it.
        UsageError: the library is not installed; or it has no signature that could be meant.
    """
    place = path if (path / "saved_model.pb").exists() else path / "1"
    library = _library()
    with _status(library) as status:
        options = library.TF_NewSessionOptions()
        graph = library.TF_NewGraph()
        meta = library.TF_NewBuffer()
        if threads is not None:
            config = bytes([2 << 3, threads & 0x7F, 5 << 3, threads & 0x7F])  # intra_op and inter_op of ConfigProto
            library.TF_SetConfig(options, config, len(config), status)
        tags = (c_char_p * 1)(b"serve")
        session = library.TF_LoadSessionFromSavedModel(options, None, os.fsencode(place), tags, 1, graph, meta, status)
        library.TF_DeleteSessionOptions(options)
        fault = _fault(library, status)
        text = ctypes.string_at(meta.contents.data, meta.contents.length) if not fault else b""
        library.TF_DeleteBuffer(meta)
    if fault:
        library.TF_DeleteGraph(graph)
        raise Damaged(f"{path.name}: TensorFlow cannot open it: {fault:.400}", str(path))
    return Session(library, session, graph, text, path.name, signature)


class Session:
    """A signature of a SavedModel that is loaded: that of the name, or its only one."""

    def __init__(self, library: Any, session: Any, graph: Any, meta: bytes, name: str, signature: str) -> None:
        self._library, self._session, self._name = library, session, name
        self._close = weakref.finalize(self, _end, library, session, graph)
        inputs, outputs = _signature(meta, name, signature)
        self.inputs = {key: _info(key, one) for key, one in inputs.items()}
        self.outputs = {key: _info(key, one) for key, one in outputs.items()}
        self._inputs = {key: _place(library, graph, one[0], name) for key, one in inputs.items()}
        self._names = list(outputs)
        places = [_place(library, graph, one[0], name) for one in outputs.values()]
        self._wanted = (_Output * len(places))(*places)
        self._given = (_Output * len(inputs))()

    def __call__(self, inputs: Inputs) -> Arrays:
        """Compute. Raises UsageError."""
        library, count = self._library, len(inputs)
        given = (_Output * count)(*(self._inputs[name] for name in inputs))
        tensors = (c_void_p * count)(*(_tensor(library, array) for array in inputs.values()))
        found = (c_void_p * len(self._names))()
        with _status(library) as status:
            library.TF_SessionRun(
                self._session, None, given, tensors, count, self._wanted, found, len(self._names), None, 0, None, status
            )
            fault = _fault(library, status)
        for tensor in tensors:
            library.TF_DeleteTensor(tensor)
        if fault:
            raise UsageError(f"{self._name}: TensorFlow could not compute it: {fault:.400}")
        return {name: _array(library, tensor) for name, tensor in zip(self._names, found, strict=True)}


def _end(library: Any, session: Any, graph: Any) -> None:
    with _status(library) as status:
        library.TF_CloseSession(session, status)
        library.TF_DeleteSession(session, status)
    library.TF_DeleteGraph(graph)


@lru_cache(maxsize=1)
def _library() -> Any:
    """The library of the installed package. With RTLD_GLOBAL its symbols would meet those of others and crash."""
    spec = importlib.util.find_spec("tensorflow")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    if folder is None or not (folder / "libtensorflow_cc.so.2").exists():
        raise UsageError("TensorFlow's library is not installed; pip install 'modelkeep[tensorflow]' brings it")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), mode=ctypes.RTLD_LOCAL)
    library = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), mode=ctypes.RTLD_LOCAL)
    pointer, many = c_void_p, POINTER(c_void_p)
    for name, gives, takes in (
        ("TF_NewStatus", pointer, []),
        ("TF_DeleteStatus", None, [pointer]),
        ("TF_GetCode", c_int, [pointer]),
        ("TF_Message", c_char_p, [pointer]),
        ("TF_NewSessionOptions", pointer, []),
        ("TF_DeleteSessionOptions", None, [pointer]),
        ("TF_SetConfig", None, [pointer, c_char_p, c_size_t, pointer]),
        ("TF_NewGraph", pointer, []),
        ("TF_DeleteGraph", None, [pointer]),
        ("TF_NewBuffer", POINTER(_Buffer), []),
        ("TF_DeleteBuffer", None, [POINTER(_Buffer)]),
        (
            "TF_LoadSessionFromSavedModel",
            pointer,
            [pointer, pointer, c_char_p, POINTER(c_char_p), c_int, pointer, POINTER(_Buffer), pointer],
        ),
        ("TF_CloseSession", None, [pointer, pointer]),
        ("TF_DeleteSession", None, [pointer, pointer]),
        ("TF_GraphOperationByName", pointer, [pointer, c_char_p]),
        ("TF_AllocateTensor", pointer, [c_int, POINTER(c_int64), c_int, c_size_t]),
        ("TF_DeleteTensor", None, [pointer]),
        ("TF_TensorData", pointer, [pointer]),
        ("TF_TensorByteSize", c_size_t, [pointer]),
        ("TF_TensorType", c_int, [pointer]),
        ("TF_NumDims", c_int, [pointer]),
        ("TF_Dim", c_int64, [pointer, c_int]),
        (
            "TF_SessionRun",
            None,
            [
                pointer,
                pointer,
                POINTER(_Output),
                many,
                c_int,
                POINTER(_Output),
                many,
                c_int,
                pointer,
                c_int,
                pointer,
                pointer,
            ],
        ),
        ("TF_StringInit", None, [pointer]),
        ("TF_StringCopy", None, [pointer, c_char_p, c_size_t]),
        ("TF_StringGetDataPointer", pointer, [pointer]),
        ("TF_StringGetSize", c_size_t, [pointer]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = gives, takes
    return library


@contextmanager
def _status(library: Any) -> Iterator[Any]:
    status = library.TF_NewStatus()
    try:
        yield status
    finally:
        library.TF_DeleteStatus(status)


def _fault(library: Any, status: Any) -> str:
    return library.TF_Message(status).decode(errors="replace") if library.TF_GetCode(status) else ""


def _tensor(library: Any, array: "np.ndarray[Any, Any]") -> Any:
    dims = (c_int64 * array.ndim)(*array.shape)
    if array.dtype.kind == "O":
        tensor = library.TF_AllocateTensor(_STRING, dims, array.ndim, array.size * _TSTRING)
        at = library.TF_TensorData(tensor)
        for index, text in enumerate(array.flat):
            data = text if isinstance(text, bytes) else str(text).encode()
            library.TF_StringInit(at + index * _TSTRING)
            library.TF_StringCopy(at + index * _TSTRING, data, len(data))
        return tensor
    array = np.asarray(array, order="C")
    tensor = library.TF_AllocateTensor(_NUMBERS[array.dtype], dims, array.ndim, array.nbytes)
    if array.nbytes:
        ctypes.memmove(library.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
    return tensor


def _array(library: Any, tensor: Any) -> "np.ndarray[Any, Any]":
    """A tensor as an array of ours; the tensor is freed."""
    kind = library.TF_TensorType(tensor)
    shape = tuple(library.TF_Dim(tensor, axis) for axis in range(library.TF_NumDims(tensor)))
    at = library.TF_TensorData(tensor)
    found: np.ndarray[Any, Any]
    if kind == _STRING:
        found = np.empty(shape, object)
        found.reshape(-1)[:] = [
            ctypes.string_at(library.TF_StringGetDataPointer(one), library.TF_StringGetSize(one))
            for one in range(at or 0, (at or 0) + found.size * _TSTRING, _TSTRING)
        ]
    else:
        found = np.empty(shape, _DTYPES[kind])
        if found.nbytes:
            ctypes.memmove(found.ctypes.data, at, found.nbytes)
    library.TF_DeleteTensor(tensor)
    return found


def _place(library: Any, graph: Any, name: str, where: str) -> _Output:
    """The output of an operation that a tensor's name (``dense/Relu:0``) means."""
    operation, _, index = name.partition(":")
    found = library.TF_GraphOperationByName(graph, operation.encode())
    if not found:
        raise Damaged(f"{where}: its signature names {name!r:.100}, which its graph has not", where)
    return _Output(found, int(index or 0))


_Tensor = tuple[str, int, tuple[int | None, ...]]
"""The name in the graph, the number of the dtype, and the shape."""


def _signature(meta: bytes, where: str, wanted: str) -> tuple[dict[str, _Tensor], dict[str, _Tensor]]:
    """Inputs and outputs of the signature that is meant, out of a MetaGraphDef. Raises Damaged, UsageError."""
    source = Memory(meta, where)
    found: dict[str, tuple[dict[str, _Tensor], dict[str, _Tensor]]] = {}
    for number, wire, start, stop in fields(source):
        if (number, wire) == (5, BYTES):
            key, value = _entry(source, start, stop)
            found[key] = _signature_def(source, *value)
    able = {name: one for name, one in found.items() if one[1] and not name.startswith("__")}
    if wanted not in able and (wanted != SIGNATURE or len(able) != 1):
        names = ", ".join(sorted(able))
        had = f"the signatures {names}, and none of them is {wanted}" if names else "no signature"
        raise UsageError(f"{where}: it has {had}; save it with signatures=")
    return able.get(wanted) or next(iter(able.values()))


def _entry(source: Memory, start: int, stop: int) -> tuple[str, tuple[int, int]]:
    """Key and value of a map's entry."""
    key, value = "", (stop, stop)
    for number, wire, first, past in fields(source, start, stop):
        if (number, wire) == (1, BYTES):
            key = read_bytes(source, first, past - first).decode(errors="replace")
        elif (number, wire) == (2, BYTES):
            value = (first, past)
    return key, value


def _signature_def(source: Memory, start: int, stop: int) -> tuple[dict[str, _Tensor], dict[str, _Tensor]]:
    both: tuple[dict[str, _Tensor], dict[str, _Tensor]] = ({}, {})
    for number, wire, first, past in fields(source, start, stop):
        if number in {1, 2} and wire == BYTES:
            key, value = _entry(source, first, past)
            both[number - 1][key] = _tensor_info(source, *value)
    return both


def _tensor_info(source: Memory, start: int, stop: int) -> _Tensor:
    name, dtype, shape = "", 0, []
    for number, wire, first, past in fields(source, start, stop):
        if (number, wire) == (1, BYTES):
            name = read_bytes(source, first, past - first).decode(errors="replace")
        elif number == 2:
            dtype = first
        elif (number, wire) == (3, BYTES):
            for part, kind, begin, end in fields(source, first, past):
                if (part, kind) == (2, BYTES):
                    sizes = [signed(value) for at, _, value, _ in fields(source, begin, end) if at == 1]
                    shape.append(sizes[0] if sizes else 0)
    return name, dtype, tuple(None if axis < 0 else axis for axis in shape)


def _info(name: str, tensor: _Tensor) -> TensorInfo:
    dtype = "string" if tensor[1] == _STRING else np.dtype(_DTYPES.get(tensor[1], np.void)).name
    return TensorInfo(name, dtype, tensor[2])
