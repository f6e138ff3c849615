"""A Keras model as a graph of TensorFlow, whichever backend trained it. Imported in the converter's process alone."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from modelkeep.errors import UsageError
from modelkeep.exporters.built import Built
from modelkeep.exporters.serving import SIGNATURE
from modelkeep.frameworks.keras_names import flat_layers
from modelkeep.model.signature import TensorInfo, flat, named, nested


def save(built: Built, path: Path, *, batch: int | None = None, unrolled: bool = False) -> Path:
    """Write a SavedModel whose signature has the model's own names; with those of the parts.

    Args:
        built: the model.
        path: a folder that is not there yet.
        batch: the size of the first axis, where it must be known.
        unrolled: with recurrent layers as so many copies of their step as the sequence has.
    """
    archive = keras.export.ExportArchive()
    archive.track(built.model)
    specs = {name: _spec(name, info, batch) for name, info in named(built.signature.inputs).items()}
    with _unrolled(built.model) if unrolled else nullcontext():
        for name, part in {SIGNATURE: built, **built.parts}.items():
            archive.add_endpoint(name, _serving(part), input_signature=[specs])
        archive.write_out(str(path), verbose=False)
    return path


def _serving(built: Built) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def serve(inputs: Mapping[str, Any]) -> dict[str, Any]:
        given = nested(built.signature.inputs, inputs)
        found = flat(built.signature.outputs, built.model(given, training=False))
        return {name: tf.identity(tensor, name=name) for name, tensor in found.items()}

    return serve


def recurrent(model: Any) -> list[Any]:
    """The recurrent layers of a model, those within others too."""
    return [layer for layer in flat_layers(model) if isinstance(layer, keras.layers.RNN)]


@contextmanager
def _unrolled(model: Any) -> Iterator[None]:
    layers = recurrent(model)
    before = [layer.unroll for layer in layers]
    for layer in layers:
        layer.unroll = True
    yield
    for layer, unroll in zip(layers, before, strict=True):
        layer.unroll = unroll


def _spec(name: str, info: TensorInfo, batch: int | None) -> tf.TensorSpec:
    if not info.shape and batch is not None:
        raise UsageError(f"{info} has no axis that counts examples, so batch={batch} cannot be fixed")
    shape = info.shape if batch is None or info.shape[0] is not None else (batch, *info.shape[1:])
    return tf.TensorSpec(shape, tf.string if info.dtype == "string" else tf.as_dtype(info.dtype), name=name)
