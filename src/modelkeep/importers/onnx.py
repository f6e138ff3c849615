"""ONNX: the initializers of a model, which are its weights. The graph is walked over, not built and not run.

The format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, ModelkeepError, UnknownFormat, Unsafe
from modelkeep.importers import protobuf
from modelkeep.importers.folder import check_member, open_member
from modelkeep.importers.protobuf import BYTES, VARINT
from modelkeep.importers.source import Source, read_bytes
from modelkeep.importers.weights import Catalogue, Weights, array_bytes
from modelkeep.snapshot.dtypes import numpy_dtype
from modelkeep.values import Json

FORMAT = "onnx"
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn",
    18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 24: "float8_e8m0fnu",
}  # fmt: skip
_FLOAT, _INT32, _STRING, _INT64, _DOUBLE, _UINT64 = 4, 5, 6, 7, 10, 11
_FIXED = {_FLOAT: "<f4", _DOUBLE: "<f8"}
# which list of numbers holds the values of a dtype that are not raw; the smaller ones lie in int32 by their bits
_LISTS = {1: _FLOAT, 14: _FLOAT, 11: _DOUBLE, 15: _DOUBLE, 7: _INT64, 12: _UINT64, 13: _UINT64}
_MODEL_FIELDS = {1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES, 8: BYTES, 14: BYTES, 20: BYTES,
                 25: BYTES, 26: BYTES}  # fmt: skip


@dataclass(slots=True)
class _Tensor:
    """What the fields of a TensorProto say so far."""

    name: str = ""
    dtype: int = 0
    shape: list[int] = field(default_factory=list)
    raw: tuple[int, int] | None = None
    listed: list[tuple[int, int, int, int]] = field(default_factory=list)
    external: dict[str, str] = field(default_factory=dict)
    outside: bool = False


def looks_like(source: Source) -> bool:
    """Whether the file is a message of the fields that a model has, with a version and a graph."""
    seen = set()
    try:
        for count, (number, wire, _, _) in enumerate(protobuf.fields(source)):
            if _MODEL_FIELDS.get(number) != wire or count > 100_000:
                return False
            seen.add(number)
    except ModelkeepError:
        return False
    return {1, 7} <= seen


def read_file(source: Source, folder: str, budget: Budget) -> Weights:
    """The initializers of a model; values in other files only when those lie in the same folder.

    Raises:
        Unsafe: values at a path that leads out of the folder.
        Damaged: not the format, or values that are missing.
        UnknownFormat: dtypes that pack several values in a byte, texts, sparse tensors.
        LimitExceeded: more than the budget allows.
    """
    catalogue = Catalogue(source.name, budget)
    metadata: dict[str, Json] = {}
    files: dict[str, Source] = {}
    for number, wire, start, stop in protobuf.fields(source):
        if (number, wire) == (1, VARINT):
            metadata["ir_version"] = start
        elif (number, wire) in ((2, BYTES), (3, BYTES)):
            metadata["producer_name" if number == 2 else "producer_version"] = _text(source, start, stop, budget)
        elif (number, wire) == (7, BYTES):
            _read_graph(source, (start, stop), catalogue, (folder, files))
    if not catalogue.names():
        raise UnknownFormat(f"{source.name}: this model has no initializers, so no weights of its own")
    return catalogue.weights(FORMAT, metadata)


def _read_graph(
    source: Source, place: tuple[int, int], catalogue: Catalogue, around: tuple[str, dict[str, Source]]
) -> None:
    for fields, (number, wire, start, stop) in enumerate(protobuf.fields(source, *place), 1):
        catalogue.budget.check("entries", fields, source.name)
        if (number, wire) == (5, BYTES):
            _add(catalogue, source, _parse_tensor(source, (start, stop), catalogue.budget), around)
        elif number == 15:
            raise UnknownFormat(f"{source.name}: it has sparse initializers, which are not read here")


def _parse_tensor(source: Source, place: tuple[int, int], budget: Budget) -> _Tensor:
    tensor = _Tensor()
    for number, wire, start, stop in protobuf.fields(source, *place):
        if number == 1:
            tensor.shape += [protobuf.signed(n) for n in _varints(source, (wire, start, stop), 1 << 10)]
        elif (number, wire) == (2, VARINT):
            tensor.dtype = start
        elif (number, wire) == (8, BYTES):
            tensor.name = _text(source, start, stop, budget)
        elif (number, wire) == (9, BYTES):
            tensor.raw = (start, stop)
        elif (number, wire) == (13, BYTES):
            pair = {n: _text(source, a, b, budget) for n, w, a, b in protobuf.fields(source, start, stop) if w == BYTES}
            tensor.external[pair.get(1, "")] = pair.get(2, "")
            budget.check("depth", len(tensor.external), f"{source.name}: facts of an external tensor")
        elif (number, wire) == (14, VARINT):
            tensor.outside = start == 1
        elif number in (_FLOAT, _INT32, _STRING, _INT64, _DOUBLE, _UINT64):
            tensor.listed.append((number, wire, start, stop))
            budget.check("entries", len(tensor.listed), source.name)
    return tensor


def _add(catalogue: Catalogue, source: Source, tensor: _Tensor, around: tuple[str, dict[str, Source]]) -> None:
    where = f"{source.name}: {tensor.name!r:.200}"
    if tensor.dtype not in _DTYPES:
        raise UnknownFormat(f"{where} has the dtype {tensor.dtype} of ONNX, which is not read here")
    dtype, shape = _DTYPES[tensor.dtype], tuple(tensor.shape)
    nbytes = array_bytes(dtype, shape, where)
    if tensor.outside:
        catalogue.add_raw(tensor.name, dtype, shape, _external(tensor, nbytes, where, around))
    elif tensor.raw is not None:
        if tensor.raw[1] - tensor.raw[0] != nbytes:
            raise Damaged(
                f"{where} has {tensor.raw[1] - tensor.raw[0]:,} bytes, and {shape!s:.100} takes {nbytes:,}", where
            )
        catalogue.add_raw(tensor.name, dtype, shape, (source, tensor.raw[0]))
    else:
        stored = sum(stop - start if wire == BYTES else 1 for _, wire, start, stop in tensor.listed)
        if nbytes > 16 * stored:
            raise Damaged(f"{where} has the shape {shape!s:.100}, and too few values", where)
        catalogue.add(tensor.name, dtype, shape, partial(_read_listed, source, tensor, dtype, where))


def _external(tensor: _Tensor, nbytes: int, where: str, around: tuple[str, dict[str, Source]]) -> tuple[Source, int]:
    """Where the values of a tensor lie in a file of the same folder."""
    folder, files = around
    name = check_member(tensor.external.get("location", ""), where)
    offset, length = (
        tensor.external.get(fact, default) for fact, default in (("offset", "0"), ("length", str(nbytes)))
    )
    if (
        not all(text.isascii() and text.isdigit() and len(text) < 20 for text in (offset, length))
        or int(length) != nbytes
    ):
        raise Damaged(f"{where} lies at {offset!r:.40} for {length!r:.40} bytes, and it takes {nbytes:,}", where)
    if name not in files:
        if not folder:
            raise Unsafe(f"{where} lies in {name!r:.200}, and there is no folder to look for it in")
        files[name] = open_member(folder, name)
    if int(offset) + nbytes > files[name].size:
        raise Damaged(f"{where} lies past the end of {name!r:.200}", where)
    return files[name], int(offset)


def _read_listed(source: Source, tensor: _Tensor, dtype: str, where: str) -> NDArray[Any]:
    """The values of a tensor that holds them as a list of numbers."""
    number = _LISTS.get(tensor.dtype, _INT32)
    parts: list[NDArray[Any]] = []
    for found, wire, start, stop in tensor.listed:
        if found != number:
            raise Damaged(f"{where} has values of another kind than its dtype", where)
        if number in _FIXED:
            parts.append(np.frombuffer(read_bytes(source, start, stop - start), _FIXED[number]))
        else:
            parts.append(np.array(_varints(source, (wire, start, stop), stop - start + 1), np.uint64))
    flat = np.concatenate(parts) if parts else np.empty(0, "<u8")
    wanted = numpy_dtype(dtype)
    # of numbers of no fixed size the low bits are the value
    flat = flat.view(wanted) if number in _FIXED else flat.astype(f"<u{wanted.itemsize}").view(wanted)
    try:
        return flat.reshape(tensor.shape)
    except ValueError:
        raise Damaged(f"{where} has {flat.size:,} values, and its shape is {tensor.shape!s:.100}", where) from None


def _varints(source: Source, value: tuple[int, int, int], limit: int) -> list[int]:
    """A repeated number: one, or several packed as bytes."""
    wire, start, stop = value
    if wire == VARINT:
        return [start]
    if wire != BYTES or stop - start > 10 * limit:
        raise Damaged(f"{source.name}: numbers at byte {start:,} are none", source.name)
    data, offset, found = read_bytes(source, start, stop - start), 0, []
    while offset < len(data):
        number, offset = protobuf.varint(data, offset, source.name)
        found.append(number)
    return found


def _text(source: Source, start: int, stop: int, budget: Budget) -> str:
    budget.check("text", stop - start, source.name)
    try:
        return read_bytes(source, start, stop - start).decode()
    except UnicodeDecodeError:
        raise Damaged(f"{source.name}: the text at byte {start:,} is not UTF-8", source.name) from None
