"""Lookup tables in a graph model: TensorFlow.js fills them by a graph of their own, which it runs first."""

from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, types_pb2

_FIND = "LookupTableFindV2"


def with_tables(graph: Any, concrete: Any) -> Any:
    """Make the tables that a graph is given its own; returns the graph that fills them, without a node if none is.

    A table is found by the name of its node, which both graphs have.
    """
    handles = {inner.name.partition(":")[0]: outer for outer, inner in concrete.graph.captures}
    filling = graph_pb2.GraphDef()
    finds = [node for node in graph.node if node.op == _FIND]
    types = {find.input[0]: (find.attr["Tin"].type, find.attr["Tout"].type) for find in finds}
    for node in list(graph.node):
        if node.name in types and node.name in handles:
            keys, values = types[node.name]
            _become_table(node, keys, values)
            filling.node.add().CopyFrom(node)
            _fill(filling, node.name, handles[node.name], keys, values)
    for find in finds:
        _shape(graph, find)
    return filling


def _become_table(node: Any, keys: int, values: int) -> None:
    node.op = "HashTableV2"
    node.ClearField("attr")
    node.attr["key_dtype"].type, node.attr["value_dtype"].type = keys, values


def _fill(filling: Any, name: str, handle: Any, keys: int, values: int) -> None:
    parts = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=keys, Tvalues=values)
    inputs = [name]
    for part, array in zip(("keys", "values"), parts, strict=True):
        constant = filling.node.add(name=f"{name}/{part}", op="Const")
        constant.attr["dtype"].type = array.dtype.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array.numpy(), array.dtype))
        inputs.append(constant.name)
    load = filling.node.add(name=f"{name}/load", op="LookupTableImportV2", input=inputs)
    load.attr["Tin"].type, load.attr["Tout"].type = keys, values


def _shape(graph: Any, find: Any) -> None:
    """The runtime answers with one axis, whatever the keys have: the shape of the keys is put back."""
    name = find.name
    find.name = f"{name}/found"
    shape = graph.node.add(name=f"{name}/shape", op="Shape", input=[find.input[1]])
    shape.attr["T"].type, shape.attr["out_type"].type = find.attr["Tin"].type, types_pb2.DT_INT32
    back = graph.node.add(name=name, op="Reshape", input=[find.name, shape.name])
    back.attr["T"].type, back.attr["Tshape"].type = find.attr["Tout"].type, types_pb2.DT_INT32
