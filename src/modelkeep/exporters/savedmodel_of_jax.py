"""SavedModel, from a model whose code is bound to jax: its StableHLO as one operation (XlaCallModule) of a graph.

TensorFlow compiles it for the device that it serves on; converters to other formats do not look inside.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorflow as tf
from jax.experimental import jax2tf

from modelkeep.exporters.built import Built
from modelkeep.exporters.jax_function import pure, symbolic_shapes
from modelkeep.exporters.options import Options
from modelkeep.exporters.serving import SIGNATURE, lay_out
from modelkeep.model.signature import named


def write(built: Built, out: Path, options: Options) -> None:
    """Make the folder. Raises UsageError for text, which jax has not."""
    parameters, compute = pure(built)
    infos = named(built.signature.inputs)
    shapes = {name: f"({shape})" for name, shape in symbolic_shapes(infos).items()}
    leaves, structure = jax.tree.flatten(parameters)

    def called(held: list[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        return compute(jax.tree.unflatten(structure, held), inputs)

    converted = jax2tf.convert(called, polymorphic_shapes=[None, shapes], with_gradient=False)
    holder = tf.Module()
    holder.parameters = held = [tf.Variable(np.asarray(one)) for one in leaves]
    takes = {name: tf.TensorSpec(info.shape, tf.as_dtype(info.dtype), name) for name, info in infos.items()}

    @tf.function(input_signature=[takes], autograph=False)
    def serve(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tf.identity(tensor, name=name) for name, tensor in converted(held, inputs).items()}

    tf.saved_model.save(holder, str(lay_out(out, options.name)), signatures={SIGNATURE: serve})
