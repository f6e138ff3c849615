"""TFLite Metadata: the names, and the labels, that Android's tools and MediaPipe read from a ``.tflite`` file.

A flatbuffer of its own schema in a buffer of the model, and the labels as files of a zip archive behind it.
"""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from modelkeep.exporters.built import Built
from modelkeep.model.signature import TensorInfo, named

_BUFFER = b"TFLITE_METADATA"
_IDENTIFIER, _PARSER = b"M001", "1.0.0"
_AXIS_LABELS = 2


def described(data: bytes, built: Built, name: str) -> bytes:
    """The file ``data`` with metadata."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    inputs, outputs = (named(infos) for infos in (built.signature.inputs, built.signature.outputs))
    graph, (signature,) = model.subgraphs[0], model.signatureDefs
    buffer = schema.BufferT()
    buffer.data = _metadata(
        name, _in_order(inputs, signature.inputs, graph.inputs), _in_order(outputs, signature.outputs, graph.outputs)
    )
    entry = schema.MetadataT()
    entry.name, entry.buffer = _BUFFER, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return _with_files(bytes(builder.Output()), {_file(key): info.labels for key, info in outputs.items()})


def _with_files(data: bytes, labels: Mapping[str, tuple[str, ...]]) -> bytes:
    if not any(labels.values()):
        return data
    whole = io.BytesIO(data)
    with zipfile.ZipFile(whole, "a") as archive:
        for name, lines in labels.items():
            if lines:
                archive.writestr(zipfile.ZipInfo(name), "\n".join(lines) + "\n")
    return whole.getvalue()


def _in_order(infos: Mapping[str, TensorInfo], signature: Any, tensors: Any) -> list[tuple[str, TensorInfo]]:
    """The inputs or outputs as the graph has them; the signature says which is which."""
    names = {one.tensorIndex: one.name.decode() for one in signature}
    return [(names[tensor], infos[names[tensor]]) for tensor in tensors]


def _file(name: str) -> str:
    return f"{name.replace('/', '_')}_labels.txt"


def _metadata(name: str, inputs: list[tuple[str, TensorInfo]], outputs: list[tuple[str, TensorInfo]]) -> bytes:
    """The tables of metadata_schema.fbs, by the numbers of their fields."""
    builder = flatbuffers.Builder()
    takes, gives = (_vector(builder, [_tensor(builder, *one) for one in part]) for part in (inputs, outputs))
    graph = _table(builder, 10, {2: takes, 3: gives})
    parts = {0: builder.CreateString(name), 3: _vector(builder, [graph]), 7: builder.CreateString(_PARSER)}
    builder.Finish(_table(builder, 8, parts), _IDENTIFIER)
    return bytes(builder.Output())


def _tensor(builder: Any, name: str, info: TensorInfo) -> int:
    parts = {0: builder.CreateString(name), 1: builder.CreateString(str(info))}
    if info.labels:
        parts[6] = _vector(builder, [_table(builder, 5, {0: builder.CreateString(_file(name))}, {2: _AXIS_LABELS})])
    return _table(builder, 7, parts)


def _table(builder: Any, fields: int, offsets: Mapping[int, int], numbers: Mapping[int, int] | None = None) -> int:
    builder.StartObject(fields)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in (numbers or {}).items():
        builder.PrependInt8Slot(slot, number, 0)
    found: int = builder.EndObject()
    return found


def _vector(builder: Any, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    found: int = builder.EndVector()
    return found
