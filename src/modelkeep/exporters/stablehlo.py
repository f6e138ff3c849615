"""StableHLO, by `jax.export`: what jax, XLA and IREE compile, with the weights inside and a free batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax import export

from modelkeep.errors import UsageError
from modelkeep.exporters.built import Built
from modelkeep.exporters.options import Options
from modelkeep.model.signature import TensorInfo, flat, named, nested


def write(built: Built, out: Path, options: Options) -> None:  # noqa: ARG001  it has none
    """Write what ``jax.export.deserialize`` reads. Raises UsageError for text, which jax has not."""
    model, signature = built.model, built.signature
    texts = [name for name, info in named(signature.inputs).items() if info.dtype == "string"]
    if texts:
        raise UsageError(f"jax has no text, and {', '.join(texts)} is; savedmodel keeps steps on text inside")
    trained = [one.value for one in model.trainable_variables]
    others = [one.value for one in model.non_trainable_variables]

    def serve(inputs: Mapping[str, Any]) -> dict[str, Any]:
        found, _ = model.stateless_call(trained, others, nested(signature.inputs, inputs), training=False)
        return flat(signature.outputs, found)

    scope = export.SymbolicScope()
    specs = {name: _spec(name, info, scope) for name, info in named(signature.inputs).items()}
    out.write_bytes(export.export(jax.jit(serve))(specs).serialize())


def _spec(name: str, info: TensorInfo, scope: Any) -> Any:
    """The shape with the batch as one symbol of all inputs, and every other free axis as one of its own."""
    word = "".join(char if char.isalnum() else "_" for char in name)
    free = [f"{word}_{at}" if at else "batch" for at in range(len(info.shape))]
    axes = [own if axis is None else str(axis) for axis, own in zip(info.shape, free, strict=True)]
    return jax.ShapeDtypeStruct(export.symbolic_shape(", ".join(axes), scope=scope), info.dtype)
