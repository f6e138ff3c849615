"""A Keras model as the contents of a version, and back, on any backend."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from modelkeep.budget import Budget
from modelkeep.errors import UsageError
from modelkeep.frameworks import keras as keras_door
from modelkeep.frameworks import keras_arrays
from modelkeep.frameworks.keras_names import carried_variables, flat_layers
from modelkeep.model.architecture import describe
from modelkeep.model.build import build
from modelkeep.model.contents import answered, architecture_part, examples_part, mapped
from modelkeep.model.lineage import transferred
from modelkeep.model.signature import Infos, Signature, TensorInfo
from modelkeep.values import Json


def contents(model: Any, example: Any, *, optimizer: bool) -> dict[str, Any]:
    """The state tree of a version; see `modelkeep.model.contents.Contents.of`."""
    given = answered(example, lambda inputs: answers(model, inputs)) if example is not None else None
    if not model.built:
        raise UsageError(
            f"model {model.name!r} is not built, so it has no weights yet; call it once, or pass example=x[:4]"
        )
    signature = signature_of(model)
    if signature is None:
        if given is None:
            raise UsageError(
                f"model {model.name!r} does not tell what it takes and gives, as functional models do; pass "
                "example=x[:4], from which its signature is taken"
            )
        signature = Signature.of_arrays(given.inputs, given.outputs)
    state = keras_door.state_of(model)
    if optimizer and state["optimizer"] is None:
        raise UsageError(f"model {model.name!r} is not compiled, so it has no optimizer; leave optimizer=True out")
    return {
        "architecture": architecture_part(describe(model)),
        "signature": signature.to_json(),
        "model": state["model"],
        **({"optimizer": state["optimizer"]} if optimizer else {}),
        **({"examples": examples_part(given)} if given is not None else {}),
    }


def described(model: Any) -> dict[str, Any]:
    """What checkpoints of a training hold beside its state, so that one can be published.

    ``architecture`` and ``signature``, but for a model that cannot be described, or does not tell what it takes: it is
    trained all the same. And ``lineage``, where weights were transferred.
    """
    found = origins(model)
    lineage = {"lineage": found} if found else {}
    try:
        signature = signature_of(model)
        architecture = architecture_part(describe(model))
    except Exception:  # noqa: BLE001  somebody's get_config may raise anything, and that is no reason not to train
        return lineage
    if signature is None:
        return lineage
    return {"architecture": architecture, "signature": signature.to_json(), **lineage}


def origins(model: Any) -> list[dict[str, Json]]:
    """What the weights of the model were transferred from."""
    return transferred(flat_layers(model))


def signature_of(model: Any) -> Signature | None:
    """What a functional or Sequential model takes and gives; None for one that does not tell.

    >>> model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2, name="head")])
    >>> print(signature_of(model))
    x: float32 [?, 3] -> head: float32 [?, 2]
    """
    functional = model._functional if isinstance(model, keras.Sequential) else model
    if not isinstance(functional, keras.src.models.functional.Functional):
        return None
    names = iter(functional.output_names)
    outputs = keras.tree.map_structure(lambda tensor: _info(tensor, next(names)), functional._outputs_struct)
    inputs = keras.tree.map_structure(lambda tensor: _info(tensor, tensor.name), functional._inputs_struct)
    return Signature(_listed(inputs), _listed(outputs))


def answers(model: Any, inputs: Any) -> Any:
    """What the model gives for ``inputs`` (a tree of arrays), as arrays of the same bits. The model is as it was."""
    with _undisturbed(model):
        found = model(mapped(inputs, _tensor), training=False)
        return keras.tree.map_structure(_array, found)


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Put back what a call changes though it does not train: seed generators, the states of stateful layers."""
    changed = [*(one for one in model.variables if not one.trainable), *carried_variables(model)]
    before = [(one, keras_arrays.read(one, copy=True)) for one in changed]
    yield
    for variable, array in before:
        if keras_arrays.read(variable, copy=False).tobytes() != array.tobytes():
            keras_arrays.write(variable, array)


def rebuilt(
    architecture: Json,
    tree: Mapping[str, Any],
    *,
    custom_objects: Mapping[str, Any] | None,
    compiled: bool,
    budget: Budget,
) -> Any:
    """The model of an architecture, with the weights of a state tree, which is given away.

    Raises what `build` and `load_into` raise.
    """
    model = build(architecture, custom_objects=custom_objects, budget=budget, compiled=compiled, drawn=False)
    parts = ("model", "optimizer") if compiled and tree.get("optimizer") is not None else ("model",)
    keras_door.load_into(model, dict(tree), parts=parts, given=True)
    return model


def _info(tensor: Any, name: str) -> TensorInfo:
    return TensorInfo(name, keras.backend.standardize_dtype(tensor.dtype), tuple(tensor.shape))


def _listed(infos: Any) -> Infos:
    """Tuples as lists, and what is nested in them; a list of one tensor is how Keras holds a single one."""
    if isinstance(infos, list | tuple):
        parts = [_listed(part) for part in infos]
        return parts[0] if len(parts) == 1 else parts
    return {key: _listed(part) for key, part in infos.items()} if isinstance(infos, dict) else infos


def _tensor(array: Any) -> Any:
    if array.dtype == object:  # text: the preprocessing layers are TensorFlow's on each backend
        import tensorflow as tf

        return tf.constant(array.tolist(), dtype=tf.string, shape=array.shape)
    return keras.ops.convert_to_tensor(array)


def _array(tensor: Any) -> np.ndarray:
    if isinstance(tensor, np.ndarray):
        return tensor
    return keras_arrays.read(tensor, copy=True)
