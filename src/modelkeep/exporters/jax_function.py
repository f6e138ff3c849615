"""A model as jax has it: a pure function of its parameters and inputs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import export

from modelkeep.errors import UsageError
from modelkeep.exporters.built import Built
from modelkeep.model.signature import TensorInfo, flat, named, nested

Function = Callable[[Any, Mapping[str, Any]], dict[str, Any]]


def pure(built: Built) -> tuple[Any, Function]:
    """The parameters of a model, and what it gives for them and for inputs, both by name.

    Raises UsageError for text, which jax has not.
    """
    model, signature = built.model, built.signature
    texts = [name for name, info in named(signature.inputs).items() if info.dtype == "string"]
    if texts:
        raise UsageError(f"jax has no text, and {', '.join(texts)} is; savedmodel keeps steps on text inside")
    if built.kind == "jax":
        parameters, function = model
        return parameters, lambda given, inputs: flat(signature.outputs, function(given, _in(built, inputs)))

    import keras  # which a function of jax does without

    def compute(given: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        # not stateless_call, which goes past Model.__call__ and hands training= to a call that may not take it
        with keras.StatelessScope(state_mapping=list(zip(model.variables, given, strict=True))):
            return flat(signature.outputs, model(_in(built, inputs), training=False))

    return [one.value for one in model.variables], compute


def _in(built: Built, inputs: Mapping[str, Any]) -> Any:
    return nested(built.signature.inputs, inputs)


def symbolic_shapes(infos: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Shapes as jax writes them: the batch as one symbol of all inputs, every other free axis as one of its own.

    >>> symbolic_shapes({"x": TensorInfo("x", "float32", (None, None, 3)), "n": TensorInfo("n", "int32", ())})
    {'x': 'batch, x_1, 3', 'n': ''}
    """
    return {name: ", ".join(_axes(name, info)) for name, info in infos.items()}


def _axes(name: str, info: TensorInfo) -> list[str]:
    word = "".join(char if char.isalnum() else "_" for char in name)
    free = [f"{word}_{at}" if at else "batch" for at in range(len(info.shape))]
    return [own if axis is None else str(axis) for axis, own in zip(info.shape, free, strict=True)]


def specs(infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """What is traced: shapes and dtypes without values."""
    scope = export.SymbolicScope()
    return {
        name: jax.ShapeDtypeStruct(export.symbolic_shape(shape, scope=scope), infos[name].dtype)
        for name, shape in symbolic_shapes(infos).items()
    }
