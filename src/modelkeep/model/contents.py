"""What a version of a model holds, from a live model: architecture, signature, weights, and examples with answers."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modelkeep.errors import ModelkeepError, UsageError, told
from modelkeep.model.signature import Signature
from modelkeep.snapshot.canonical import canonical_json
from modelkeep.values import Json


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs of a model with what it answers, where modelkeep cannot ask it: for jax, whose models are functions.

    >>> Example(inputs=np.zeros((2, 3)), outputs=np.zeros((2, 1))).inputs.shape
    (2, 3)
    """

    inputs: Any
    outputs: Any


@dataclass(frozen=True, slots=True)
class Contents:
    """The parts of a version's state tree, as they are at this moment."""

    framework: str
    """``"keras"``, ``"torch"``, ``"flax"``, ``"jax"``, or ``"weights"`` for those of a file without an architecture."""
    tree: dict[str, Any]
    origins: Json = None
    """What weights were transferred from, as `modelkeep.model.lineage` has it."""

    @classmethod
    def of(cls, model: Any, example: Any, *, optimizer: bool) -> "Contents":
        """Take a model apart, and ask it what it answers to ``example``.

        Raises:
            UsageError: something that is no model; or no signature could be told, and no example was given.
            UnsupportedState: a part that cannot be kept, or whose configuration holds code.
        """
        if isinstance(model, os.PathLike):
            return _of_file(model, example, optimizer=optimizer)
        if _is_of(model, "keras", "Model"):
            from modelkeep.model import keras_model

            tree = keras_model.contents(model, example, optimizer=optimizer)
            return cls("keras", tree, [*keras_model.origins(model)])
        if optimizer:
            raise UsageError("optimizer=True takes the optimizer of a compiled Keras model; save a run's state instead")
        if _is_of(model, "torch.nn.modules.module", "Module"):
            from modelkeep.model import torch_model

            return cls("torch", torch_model.contents(model, example))
        if _is_of(model, "flax.nnx", "Module"):
            from modelkeep.model import flax_model

            return cls("flax", flax_model.contents(model, example))
        if isinstance(model, dict | list | tuple):
            return cls("jax", _of_pytree(model, example))
        raise UsageError(
            f"a {type(model).__name__} is no model that is known; publish a Keras model, a torch or flax module, a jax "
            "pytree of parameters, the Path of a file, or a REF such as 'run:cnn@best:val_loss'"
        )


def answered(inputs: Any, ask: Callable[[Any], Any]) -> Example:
    """``inputs`` as arrays, with what ``ask`` gives for them; an `Example` as it is.

    Raises UsageError where the model does not take them.
    """
    if isinstance(inputs, Example):
        return Example(mapped(inputs.inputs, array_of), mapped(inputs.outputs, array_of))
    arrays = mapped(inputs, array_of)
    try:
        return Example(arrays, ask(arrays))
    except ModelkeepError:
        raise
    except Exception as error:
        raise UsageError(f"the model does not compute the example: {told(error)}") from error


def module_parts(kind: type, framework: str, model: Any, example: Any, ask: Callable[[Any], Any]) -> dict[str, Any]:
    """The state tree of a module whose code is the caller's: its class is a word for people, and never imported.

    Raises UsageError where there is no example, or the module does not take it.
    """
    if example is None:
        raise UsageError(f"a {framework} module does not tell what it takes and gives; pass example=x[:4]")
    given = answered(example, ask)
    return {
        "architecture": architecture_part(
            {"format": 1, "framework": framework, "class": f"{kind.__module__}.{kind.__qualname__}"}
        ),
        "signature": Signature.of_arrays(given.inputs, given.outputs).to_json(),
        "model": model,
        "examples": examples_part(given),
    }


def examples_part(example: Example) -> dict[str, Any]:
    """The part ``examples`` of the tree."""
    return {"inputs": example.inputs, "outputs": example.outputs}


def architecture_part(document: Json) -> bytes:
    """The part ``architecture`` of the tree: JSON, as bytes, so that checkpoints share it."""
    return canonical_json(document)


def array_of(leaf: Any) -> Any:
    """A leaf of an example as an array; text as an object array of str or bytes."""
    array = np.asarray(leaf)
    if array.dtype.kind in "US":
        return array.astype(object)
    if array.dtype.kind in "OV" and not all(isinstance(item, str | bytes) for item in array.flat):
        raise UsageError(f"an example holds a {type(leaf).__name__}, of which no array of numbers or text can be made")
    return array


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """``tree`` with each leaf changed; dicts, lists and tuples are kept. A list of numbers or text is one leaf."""
    if isinstance(tree, dict):
        return {key: mapped(value, change) for key, value in tree.items()}
    if isinstance(tree, tuple) or (isinstance(tree, list) and any(hasattr(item, "shape") for item in tree)):
        return type(tree)(mapped(value, change) for value in tree)
    return change(tree)


def _of_pytree(params: Any, example: Any) -> dict[str, Any]:
    from modelkeep.frameworks import jax

    if not isinstance(example, Example):
        raise UsageError(
            "a pytree of parameters cannot be asked; pass example=mk.Example(inputs=x, outputs=apply(params, x))"
        )
    given = answered(example, lambda _: None)
    return {
        "architecture": architecture_part({"format": 1, "framework": "jax"}),
        "signature": Signature.of_arrays(given.inputs, given.outputs).to_json(),
        "model": jax.state_of(params),
        "examples": examples_part(given),
    }


def _of_file(path: os.PathLike[str], example: Any, *, optimizer: bool) -> Contents:
    """The model in a foreign file, or its weights alone; the file is remembered as their origin."""
    from modelkeep.importers import open_weights
    from modelkeep.model.transfer.opening import origin_of

    weights = open_weights(path)
    origins: list[Json] = [origin_of(path, weights.format)]
    if weights.format.startswith("keras"):
        from modelkeep.model.foreign import architecture_in, load_file

        if architecture_in(weights) is not None:
            found = Contents.of(load_file(path, compiled=optimizer), example, optimizer=optimizer)
            return replace(found, origins=origins)
    if example is not None or optimizer:
        raise UsageError(f"{os.fspath(path)} ({weights.format}) holds weights alone: it cannot be asked or compiled")
    tree = {
        "architecture": architecture_part({"format": 1, "framework": "weights", "file": weights.format}),
        "signature": Signature({}, {}).to_json(),
        "model": _nested({name: tensor.read() for name, tensor in weights.model()}, os.fspath(path)),
    }
    return Contents("weights", tree, origins)


def _nested(arrays: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arrays as a tree by the parts of their names, which all of modelkeep joins by ``/``."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *steps, last = name.split("/")
        place = tree
        for step in steps:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise UsageError(f"{where}: {step!r:.100} in the name {name!r:.200} is a tensor too")
        if last in place:
            raise UsageError(f"{where}: the name {name!r:.200} is the beginning of another one")
        place[last] = array
    return {name: _listed(part) for name, part in tree.items()}


def _listed(tree: Any) -> Any:
    """A level whose names are 0, 1, 2, … is a list: that is how a state spells such paths."""
    if not isinstance(tree, dict):
        return tree
    parts = {name: _listed(part) for name, part in tree.items()}
    numbers = [str(number) for number in range(len(parts))]
    return [parts[number] for number in numbers] if set(numbers) == set(parts) else parts


def _is_of(model: Any, module: str, name: str) -> bool:
    """Whether a class of that name, of a framework that is perhaps not imported, is among those of ``model``."""
    return any(
        cls.__name__ == name and (cls.__module__ == module or cls.__module__.startswith(f"{module}."))
        for cls in type(model).__mro__
    )
