"""In the converter's process: the model is built under the framework that its format is written from, and written."""

import importlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelkeep.backend import open_backend
from modelkeep.budget import Budget
from modelkeep.errors import ModelkeepError, UsageError, told
from modelkeep.exporters.built import Built
from modelkeep.exporters.options import Options
from modelkeep.model.load import Wish, architecture_of, load_version
from modelkeep.model.signature import Signature
from modelkeep.store import Store
from modelkeep.values import SnapshotId


def convert(job: Mapping[str, Any]) -> dict[str, Any]:
    """Write the model of a snapshot to ``job["out"]``.

    Returns: where further signatures are asked for, the snapshot in the keep at ``job["scratch"]`` that has under their
    names what a version has: signature and examples, answered by the model as it was built here.

    Raises:
        UsageError: the model, or an operation of it, that the format cannot hold.
    """
    built = build(job)
    names = job["options"]["signatures"]
    if not names:
        write(job, built)
        return {}
    from modelkeep.exporters.parts import of_layer

    parts = {name: of_layer(built, name) for name in names}
    write(job, replace(built, parts={name: part for name, (part, _) in parts.items()}))
    state = {
        name: {"signature": part.signature.to_json(), "examples": {"inputs": part.examples, "outputs": found}}
        for name, (part, found) in parts.items()
    }
    return {"snapshot": Store.open(open_backend(job["scratch"], create=True)).save({"signatures": state}).id}


def build(job: Mapping[str, Any]) -> Built:
    """The model of a snapshot, with its examples. Raises UsageError where the framework of this process has it not."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    store = Store.open(open_backend(job["keep"], create=False), create=False)
    snapshot = store.snapshot(SnapshotId(job["snapshot"]))
    examples = store.load(snapshot, select=["examples/inputs", "examples/inputs/**"])["examples"]["inputs"]
    signature = Signature.from_json(snapshot.structure["signature"])  # type: ignore[index, call-overload]
    code = _code(job)
    kind = architecture_of(store, snapshot, Budget()).get("framework", "keras")
    try:
        match kind:
            case "torch":
                return Built("torch", load_version(store, snapshot, Wish(into=code["model"])), signature, examples)
            case "flax":
                from modelkeep.model import flax_model

                module = load_version(store, snapshot, Wish(into=code["model"]))
                return Built("jax", flax_model.function(module), signature, examples)
            case "jax":
                function, like = code["model"]
                parameters = load_version(store, snapshot, Wish(into=like))
                return Built("jax", (parameters, function), signature, examples)
            case _:
                model = load_version(store, snapshot, Wish(code["custom_objects"]))
                return Built("keras", model, signature, examples)
    except ModelkeepError:
        raise
    except Exception as error:
        raise UsageError(
            f"the model cannot be built under {job['framework']}, from which the format is written: {told(error)}"
        ) from error


def write(job: Mapping[str, Any], built: Built) -> None:
    """Write a model in the format of the job. Raises UsageError where it cannot be turned into it."""
    options = Options(**job["options"])
    module = importlib.import_module(job["module"])
    try:
        module.write(built, Path(job["out"]), options)
    except (ModelkeepError, OSError):
        raise
    except Exception as error:
        raise UsageError(f"it cannot be turned into this format: {told(error)}") from error


def _code(job: Mapping[str, Any]) -> dict[str, Any]:
    """The classes, and the model, that the caller holds live and has passed; nothing of a file."""
    if job.get("code") is None:
        return {"custom_objects": {}, "model": None}
    import cloudpickle

    with open(job["code"], "rb") as file:
        return dict(cloudpickle.load(file))
