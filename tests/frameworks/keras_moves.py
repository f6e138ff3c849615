"""One Keras model, trained here and continued here or elsewhere: ``begin DIR`` and ``go_on DIR BACKEND...``.

The backend is that of this process; arrays pass through ``.npz`` files with one entry for each path.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

from modelkeep.frameworks.keras import load_into, state_of
from modelkeep.frameworks.mismatch import leaves, nest, show

LASTING = ("model", "optimizer")


class Quiet(layers.Layer):
    """Holds a seed generator as dropout does, but draws nothing: what is drawn differs from backend to backend."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(9)
        self.built = True

    def call(self, x):
        return x


def build():
    keras.utils.set_random_seed(4)
    inputs = keras.Input((8, 8, 1))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(inputs))
    x = layers.GRU(5)(layers.Reshape((6, 24))(x))
    x = Quiet()(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Dense(6, activation="tanh")(x)))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def epoch(model):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(64, 8, 8, 1)).astype("float32")
    y = rng.integers(0, 3, 64)
    return model.fit(x, y, batch_size=16, shuffle=False, verbose=0).history["loss"][0]


def begin(folder):
    model = build()
    epoch(model)
    keras.random.normal((1,), seed=model.get_layer("quiet").seeds)
    save(folder / f"{keras.backend.backend()}.npz", state_of(model))
    loss = epoch(model)
    save(folder / f"{keras.backend.backend()}-on-itself.npz", {**state_of(model), "loss": np.array(loss)})


def go_on(folder, sources):
    for source in sources:
        model = build()
        state = load(folder / f"{source}.npz")
        load_into(model, state, parts=LASTING)
        save(folder / f"{source}-in-{keras.backend.backend()}.npz", state_of(model))
        loss = epoch(model)
        save(folder / f"{source}-on-{keras.backend.backend()}.npz", {**state_of(model), "loss": np.array(loss)})


def save(path, tree):
    np.savez(path, **{show(key): leaf for key, leaf in leaves(tree).items()})


def load(path):
    with np.load(path) as arrays:
        return nest({tuple(key.split("/")): arrays[key] for key in arrays.files})


if __name__ == "__main__":
    verb, directory, *names = sys.argv[1:]
    begin(Path(directory)) if verb == "begin" else go_on(Path(directory), names)
