"""In the converter's process: the model is built under the backend that its format needs, and written."""

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from modelkeep.backend import open_backend
from modelkeep.errors import ModelkeepError, UsageError
from modelkeep.exporters.built import Built
from modelkeep.exporters.options import Options
from modelkeep.model.keras_model import answers
from modelkeep.model.load import Wish, load_version
from modelkeep.model.signature import Signature, TensorInfo, flat, info_of, nested
from modelkeep.store import Store
from modelkeep.values import SnapshotId


def convert(job: Mapping[str, Any]) -> dict[str, Any]:
    """Write the model of a snapshot to ``job["out"]``.

    Raises:
        UsageError: the model, or an operation of it, that the format cannot hold.
    """
    _write(job, _built(job))
    return {}


def probe(job: Mapping[str, Any]) -> dict[str, Any]:
    """Write the model with every layer's output as an output of its own, to find where an export begins to differ.

    A snapshot with the examples and Keras' own answers is saved into the keep at ``job["scratch"]``.

    Returns: the snapshot's id, and the layers in the order in which they are computed.
    """
    built = _built(job)
    if not isinstance(built.model, keras.src.models.functional.Functional | keras.Sequential):
        raise UsageError("a model that is no functional one has no order of layers")
    outputs = _every_output(built.model)
    opened = keras.Model(built.model.inputs, {name: tensor for name, (_, tensor) in outputs.items()})
    inputs = flat(built.signature.inputs, built.examples)
    found = answers(opened, [inputs[name] for name in inputs])
    infos: dict[str, TensorInfo] = {name: info_of(array, name) for name, array in found.items()}
    plain = Signature(list(flat(built.signature.inputs, _infos(built.signature)).values()), infos)
    whole = Built(opened, plain, [inputs[name] for name in inputs])
    _write(job, whole)
    state = {"signature": plain.to_json(), "examples": {"inputs": whole.examples, "outputs": found}}
    saved = Store.open(open_backend(job["scratch"], create=True)).save(state)
    return {"snapshot": saved.id, "layers": {name: layer for name, (layer, _) in outputs.items()}}


def _infos(signature: Signature) -> Any:
    from modelkeep.model.signature import named

    return nested(signature.inputs, named(signature.inputs))


def _built(job: Mapping[str, Any]) -> Built:
    logging.getLogger("absl").setLevel(logging.ERROR)
    store = Store.open(open_backend(job["keep"], create=False), create=False)
    snapshot = store.snapshot(SnapshotId(job["snapshot"]))
    examples = store.load(snapshot, select=["examples/inputs", "examples/inputs/**"])["examples"]["inputs"]
    signature = Signature.from_json(snapshot.structure["signature"])  # type: ignore[index, call-overload]
    try:
        model = load_version(store, snapshot, Wish(_custom_objects(job)))
    except ModelkeepError:
        raise
    except Exception as error:
        raise UsageError(
            f"the model cannot be built under {keras.backend.backend()}, from which the format is written: "
            f"{error!s:.400}"
        ) from error
    return Built(model, signature, examples)


def _write(job: Mapping[str, Any], built: Built) -> None:
    options = Options(**job["options"])
    module = importlib.import_module(job["module"])
    try:
        module.write(built, Path(job["out"]), options)
    except (ModelkeepError, OSError):
        raise
    except Exception as error:
        raise UsageError(f"it cannot be turned into this format: {type(error).__name__}: {error!s:.600}") from error


def _custom_objects(job: Mapping[str, Any]) -> dict[str, Any]:
    """The classes that the caller holds live and has passed; nothing of a file."""
    if job.get("custom_objects") is None:
        return {}
    import cloudpickle

    with open(job["custom_objects"], "rb") as file:
        return dict(cloudpickle.load(file))


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
