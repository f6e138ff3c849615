"""TensorFlow.js: a graph model by our own writer, which keeps the model's own names and has no loops broken.

The format: ``model.json`` with the graph, the signature and a list of the weights, which lie in shards beside it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.training.saver import export_meta_graph

from modelkeep.errors import UsageError
from modelkeep.exporters.built import Built
from modelkeep.exporters.options import Options
from modelkeep.exporters.portable import portable
from modelkeep.exporters.serving import SIGNATURE
from modelkeep.exporters.tfjs_ops import OPERATIONS
from modelkeep.exporters.tfjs_page import page
from modelkeep.exporters.tfjs_tables import with_tables
from modelkeep.exporters.tracing import save
from modelkeep.model.signature import flat, named

SHARD_BYTES = 4 << 20
"""Browsers keep files of this size in their caches."""
_QUANTIZED = 1024
"""Constants of fewer values are kept as they are."""
_NARROWER = {types_pb2.DT_INT64: types_pb2.DT_INT32, types_pb2.DT_DOUBLE: types_pb2.DT_FLOAT}
_NARROWER |= {types_pb2.DT_HALF: types_pb2.DT_FLOAT, types_pb2.DT_BFLOAT16: types_pb2.DT_FLOAT}
_PASSES = ("pruning", "constfold", "arithmetic", "dependency", "pruning")


def write(built: Built, out: Path, options: Options) -> None:
    """Make a folder: ``model.json``, the shards, and ``index.html``, which runs it.

    Raises:
        UsageError: operations that TensorFlow.js has not, by name.
    """
    with portable(built.model):
        folder = save(built, out.with_name(f"{out.name}.saved"))
    loaded = tf.saved_model.load(str(folder))  # holds the variables as long as it is held
    concrete = loaded.signatures[SIGNATURE]
    outputs = dict(concrete.structured_outputs)
    graph, inputs, found = _frozen(concrete)
    filling = with_tables(graph, concrete)
    for one in (graph, filling):
        _repair(one, inputs)
        _check(one)
    out.mkdir()
    entries, shards = _take_weights([graph, filling], options.quantize)
    paths = [f"group1-shard{index + 1}of{len(shards)}.bin" for index in range(len(shards))]
    for path, data in zip(paths, shards, strict=True):
        (out / path).write_bytes(data)
    document = {
        "format": "graph-model",
        "generatedBy": tf.__version__,
        "convertedBy": "modelkeep",
        "signature": {
            "inputs": {name: _told(tensor) for name, tensor in inputs.items()},
            "outputs": {name: _told(tensor) for name, tensor in zip(sorted(outputs), found, strict=True)},
        },
        "modelTopology": MessageToDict(graph),
        "weightsManifest": [{"paths": paths, "weights": entries}],
    }
    if filling.node:
        document["modelInitializer"] = MessageToDict(filling)
    (out / "model.json").write_text(json.dumps(document), encoding="utf-8")
    row = {name: np.asarray(one)[:1].tolist() for name, one in flat(built.signature.inputs, built.examples).items()}
    labels = {name: info.labels for name, info in named(built.signature.outputs).items() if info.labels}
    (out / "index.html").write_text(page(options.name, row, labels), encoding="utf-8")


def _frozen(concrete: Any) -> tuple[Any, dict[str, Any], list[Any]]:
    """The graph with its variables as constants, its calls inlined and itself simplified; inputs by name, outputs."""
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=True, aggressive_inlining=True)
    graph = frozen.graph.as_graph_def()
    inputs = {tensor.name.partition(":")[0]: tensor for tensor in frozen.inputs if tensor.dtype != tf.resource}
    meta = export_meta_graph(graph_def=graph, graph=frozen.graph)
    fetch = meta_graph_pb2.CollectionDef()
    fetch.node_list.value.extend(tensor.name for tensor in [*frozen.inputs, *frozen.outputs])
    meta.collection_def["train_op"].CopyFrom(fetch)
    config = config_pb2.ConfigProto()
    rewriting = config.graph_options.rewrite_options
    rewriting.optimizers.extend(_PASSES)
    rewriting.min_graph_nodes = -1
    return tf_optimizer.OptimizeGraph(config, meta), inputs, list(frozen.outputs)


def _repair(graph: Any, inputs: dict[str, Any]) -> None:
    """What the runtime has not or does not need: control inputs, Erfc, dtypes of 64 and 16 bits, equal constants."""
    kept = graph_pb2.GraphDef()
    same: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    for node in graph.node:
        inner = [one for one in node.input if not one.startswith("^")]
        del node.input[:]
        node.input.extend(inner)
        if node.op == "NoOp" or (node.op == "Placeholder" and node.name not in inputs):
            continue
        _narrow(node)
        if node.op == "Const":
            key = node.attr["value"].SerializeToString(deterministic=True)
            if (first := same.setdefault(key, node.name)) != node.name:
                renamed[node.name] = first
                continue
        kept.node.extend(_without_erfc(node))
    for node in kept.node:
        given = [renamed.get(one.partition(":")[0], one) for one in node.input]
        del node.input[:]
        node.input.extend(given)
    versions = graph.versions
    graph.Clear()
    graph.node.extend(kept.node)
    graph.versions.CopyFrom(versions)


def _without_erfc(node: Any) -> Iterator[Any]:
    """1 - Erf in place of Erfc."""
    if node.op != "Erfc":
        yield node
        return
    one = node_def_pb2.NodeDef(name=f"{node.name}/one", op="Const")
    one.attr["dtype"].type = types_pb2.DT_FLOAT
    one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1.0, tf.float32))
    erf = node_def_pb2.NodeDef(name=f"{node.name}/erf", op="Erf", input=list(node.input))
    erf.attr["T"].type = types_pb2.DT_FLOAT
    less = node_def_pb2.NodeDef(name=node.name, op="Sub", input=[one.name, erf.name])
    less.attr["T"].type = types_pb2.DT_FLOAT
    yield from (one, erf, less)


def _narrow(node: Any) -> None:
    for name, attribute in node.attr.items():
        if attribute.type in _NARROWER:
            attribute.type = _NARROWER[attribute.type]
        listed = [_NARROWER.get(one, one) for one in attribute.list.type]
        if listed:
            del attribute.list.type[:]
            attribute.list.type.extend(listed)
        if name == "value" and attribute.tensor.dtype in _NARROWER:
            values = tf.make_ndarray(attribute.tensor)
            narrow = tf.as_dtype(_NARROWER[attribute.tensor.dtype])
            low, high = (narrow.min, narrow.max) if narrow.is_integer else (-np.inf, np.inf)
            attribute.tensor.CopyFrom(tf.make_tensor_proto(np.clip(values, low, high), narrow))


def _check(graph: Any) -> None:
    missing = sorted({node.op for node in graph.node} - OPERATIONS)
    if missing:
        raise UsageError(
            f"TensorFlow.js has no {', '.join(missing[:8])}; take that step out of the model (a step on text is done "
            "before)"
        )


def _take_weights(graphs: list[Any], quantize: str | None) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The values of the constants, moved out of the graphs: what each is, and the shards."""
    entries: list[dict[str, Any]] = []
    stream = bytearray()
    for node in (node for graph in graphs for node in graph.node):
        if node.op != "Const":
            continue
        values = tf.make_ndarray(node.attr["value"].tensor)
        entry, data = _entry(node.name, values, quantize)
        entries.append(entry)
        stream += data
        node.attr["value"].tensor.Clear()
        node.attr["value"].tensor.dtype = node.attr["dtype"].type
        for size in values.shape:
            node.attr["value"].tensor.tensor_shape.dim.add().size = size
    shards = [bytes(stream[at : at + SHARD_BYTES]) for at in range(0, len(stream), SHARD_BYTES)]
    return entries, shards or [b""]


def _entry(name: str, values: "np.ndarray[Any, Any]", quantize: str | None) -> tuple[dict[str, Any], bytes]:
    dtype = {"f": "float32", "i": "int32", "u": "int32", "b": "bool", "O": "string"}[values.dtype.kind]
    entry: dict[str, Any] = {"name": name, "shape": list(values.shape), "dtype": dtype}
    if dtype == "string":
        return entry, b"".join(len(text).to_bytes(4, "little") + text for text in values.flat)
    if quantize is None or dtype != "float32" or values.size < _QUANTIZED:
        return entry, values.astype("u1" if dtype == "bool" else dtype).tobytes()
    if quantize == "float16":
        entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
        return entry, values.astype("float16").tobytes()
    least, most = float(values.min()), float(values.max())
    scale = (most - least) / 255 or 1.0
    entry["quantization"] = {"dtype": "uint8", "min": least, "scale": scale, "original_dtype": "float32"}
    return entry, np.round((values - least) / scale).astype("u1").tobytes()


def _told(tensor: Any) -> dict[str, Any]:
    dtype = _NARROWER.get(tensor.dtype.as_datatype_enum, tensor.dtype.as_datatype_enum)
    dims = [{"size": str(-1 if axis is None else axis)} for axis in tensor.shape.as_list()]
    return {"name": tensor.name, "dtype": types_pb2.DataType.Name(dtype), "tensorShape": {"dim": dims}}
