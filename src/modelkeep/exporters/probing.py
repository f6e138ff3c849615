"""In the converter's process: a Keras model with the output of every layer, to find where an export goes wrong."""

from collections.abc import Mapping
from typing import Any

import keras

from modelkeep.backend import open_backend
from modelkeep.errors import UsageError
from modelkeep.exporters.built import Built
from modelkeep.exporters.converting import build, write
from modelkeep.model.keras_model import answers
from modelkeep.model.signature import Signature, TensorInfo, flat, info_of, named, nested
from modelkeep.store import Store


def probe(job: Mapping[str, Any]) -> dict[str, Any]:
    """Write the model with every layer's output as an output of its own.

    A snapshot with the examples and Keras' own answers is saved into the keep at ``job["scratch"]``.

    Returns: the snapshot's id, and the layers in the order in which they are computed.

    Raises:
        UsageError: it has no order of layers, as subclassed models have not.
    """
    built = build(job)
    if not isinstance(built.model, keras.src.models.functional.Functional | keras.Sequential):
        raise UsageError("a model that is no functional one has no order of layers")
    outputs = _every_output(built.model)
    opened = keras.Model(built.model.inputs, {name: tensor for name, (_, tensor) in outputs.items()})
    inputs = flat(built.signature.inputs, built.examples)
    found = answers(opened, [inputs[name] for name in inputs])
    infos: dict[str, TensorInfo] = {name: info_of(array, name) for name, array in found.items()}
    takes = nested(built.signature.inputs, named(built.signature.inputs))
    plain = Signature(list(flat(built.signature.inputs, takes).values()), infos)
    whole = Built("keras", opened, plain, [inputs[name] for name in inputs])
    write(job, whole)
    state = {"signature": plain.to_json(), "examples": {"inputs": whole.examples, "outputs": found}}
    saved = Store.open(open_backend(job["scratch"], create=True)).save(state)
    return {"snapshot": saved.id, "layers": {name: layer for name, (layer, _) in outputs.items()}}


def _every_output(model: Any) -> dict[str, tuple[str, Any]]:
    """Each tensor that a layer gives, by a name of its own, with the layer's name; in the order of computing."""
    functional = model._functional if isinstance(model, keras.Sequential) else model
    found: dict[str, tuple[str, Any]] = {}
    for nodes in (functional._nodes_by_depth[depth] for depth in sorted(functional._nodes_by_depth, reverse=True)):
        for node in nodes:
            if not node.is_input:
                for tensor in node.outputs:
                    found[f"layer_{len(found)}"] = (node.operation.name, tensor)
    return found
