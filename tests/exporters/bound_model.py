"""A program: publish a model whose layer is written in the backend's own code, export it, and tell what came of it.

``bound_model.py FOLDER FORMAT ...`` with KERAS_BACKEND jax or torch; one line of JSON.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

import modelkeep as mk
from modelkeep.errors import ModelkeepError

HERE = keras.backend.backend()


@keras.saving.register_keras_serializable("bound")
class Swirl(keras.layers.Layer):
    """What other backends have not: an operation of jax, or of torch."""

    def call(self, inputs):
        if HERE == "jax":
            import jax

            return jax.numpy.sort(inputs, axis=-1) * jax.nn.silu(inputs)
        import torch

        return torch.sort(inputs, dim=-1).values * torch.nn.functional.silu(inputs)


def main(folder: Path, formats: list[str]) -> None:
    inputs = keras.Input((6,), name="x")
    hidden = Swirl(name="swirl")(keras.layers.Dense(5, name="first")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(hidden))
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    keep = mk.open(folder / "keep")
    version = keep.publish("bound", model, example=x)
    told = {}
    for to in formats:
        try:
            keep.export(version, to, folder / f"bound.{to}", custom_objects={"bound>Swirl": Swirl})
        except ModelkeepError as error:
            told[to] = f"{type(error).__name__}: {error}"
        else:
            told[to] = max(batch["max_rel"] for batch in keep.exports(version)[0][1]["runtimes"][0]["batches"])
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
