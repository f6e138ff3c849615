"""ONNX, through the SavedModel: tf2onnx, whose opset and known wrong lowerings are seen to here."""

import logging
from pathlib import Path
from typing import Any

import onnx
from onnx import helper
from tf2onnx import tf_loader
from tf2onnx.convert import _convert_common

from modelkeep.errors import NotExact, UsageError
from modelkeep.exporters.built import Built
from modelkeep.exporters.options import Options
from modelkeep.exporters.serving import SIGNATURE
from modelkeep.exporters.tracing import save
from modelkeep.model.signature import named

OPSET = 17
IR = 10
"""What onnxruntime has read since 2024, and browsers do."""


def write(built: Built, out: Path, options: Options) -> None:
    """Write one file with the model's own names.

    Raises:
        UsageError: operations that ONNX has not, by name.
        NotExact: the file asks for inputs that the model has not.
    """
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    folder = save(built, out.with_name(f"{out.name}.saved"))
    graph, inputs, outputs, tables, names = tf_loader.from_saved_model(
        str(folder), None, None, "serve", [SIGNATURE],
        return_initialized_tables=True, return_tensors_to_rename=True,
    )  # fmt: skip
    model, _ = _convert_common(
        graph, name=options.name, opset=options.opset or OPSET, input_names=inputs, output_names=outputs,
        initialized_tables=tables, tensors_to_rename=names,
    )  # fmt: skip
    _repair(model.graph)
    _check(model, built)
    model.ir_version = min(model.ir_version, IR)
    model.producer_name = "modelkeep"
    onnx.checker.check_model(model, full_check=False)
    onnx.save(model, str(out))


def _repair(graph: Any) -> None:
    """Erfc, which tf2onnx passes through though ONNX has it not: it is 1 - Erf."""
    nodes = list(graph.node)
    if all(node.op_type != "Erfc" for node in nodes):
        return
    del graph.node[:]
    for node in nodes:
        if node.op_type != "Erfc":
            graph.node.append(node)
            continue
        one, erf = f"{node.name}/one", f"{node.name}/erf"
        graph.node.append(helper.make_node("Erf", list(node.input), [erf], name=erf))
        graph.node.append(helper.make_node("CastLike", [_ONE, node.input[0]], [one], name=one))
        graph.node.append(helper.make_node("Sub", [one, erf], list(node.output), name=node.name))
    graph.initializer.append(helper.make_tensor(_ONE, onnx.TensorProto.FLOAT, [], [1.0]))


_ONE = "modelkeep/one"


def _check(model: Any, built: Built) -> None:
    known = {domain.domain for domain in model.opset_import}
    foreign = sorted({node.op_type for node in model.graph.node if node.domain not in known or _unknown(node, model)})
    if foreign:
        raise UsageError(
            f"ONNX has no {', '.join(foreign[:8])}; a step on text stays inside only in savedmodel: take it out of the "
            "model, and do it before"
        )
    wanted = {*named(built.signature.inputs)}
    asked = {one.name for one in model.graph.input}
    if asked - wanted:
        raise NotExact(f"the file asks for inputs that the model has not: {', '.join(sorted(asked - wanted))}")


def _unknown(node: Any, model: Any) -> bool:
    version = next(one.version for one in model.opset_import if one.domain == node.domain)
    return not onnx.defs.has(node.op_type, max_inclusive_version=version, domain=node.domain)
