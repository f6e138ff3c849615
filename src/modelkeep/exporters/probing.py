"""In the converter's process: a Keras model with the output of every layer, to find where an export goes wrong."""

from collections.abc import Mapping
from typing import Any

from modelkeep.backend import open_backend
from modelkeep.exporters.converting import build, write
from modelkeep.exporters.parts import tensors, with_outputs
from modelkeep.store import Store


def probe(job: Mapping[str, Any]) -> dict[str, Any]:
    """Write the model with every layer's output as an output of its own.

    A snapshot with the examples and Keras' own answers is saved into the keep at ``job["scratch"]``.

    Returns: the snapshot's id, and the layers in the order in which they are computed.

    Raises:
        UsageError: it has no order of layers, as subclassed models have not.
    """
    built = build(job)
    given = [(layer, tensor) for layer, found in tensors(built.model).items() for tensor in found]
    whole, found = with_outputs(built, {f"layer_{at}": tensor for at, (_, tensor) in enumerate(given)})
    write(job, whole)
    state = {"signature": whole.signature.to_json(), "examples": {"inputs": whole.examples, "outputs": found}}
    saved = Store.open(open_backend(job["scratch"], create=True)).save(state)
    return {"snapshot": saved.id, "layers": {f"layer_{at}": layer for at, (layer, _) in enumerate(given)}}
