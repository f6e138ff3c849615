"""Train with Keras' own callbacks, adopt what they wrote, go on, and print how far that differs: ``DIR``."""

import sys
from pathlib import Path

import keras
import numpy as np

import modelkeep as mk

FOLDER = Path(sys.argv[1])
X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = X.sum(1, keepdims=True)


def build() -> keras.Model:
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    both = keras.layers.Concatenate()([hidden, keras.layers.BatchNormalization()(hidden)])
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(both))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def train(model: keras.Model, epochs: int, first: int = 0, **options: object) -> None:
    model.fit(X, Y, batch_size=8, verbose=0, epochs=epochs, initial_epoch=first, shuffle=False, **options)


def same(one: keras.Model, other: keras.Model) -> bool:
    pairs = [*zip(one.get_weights(), other.get_weights(), strict=True)]
    pairs += [(a.numpy(), b.numpy()) for a, b in zip(one.optimizer.variables, other.optimizer.variables, strict=True)]
    return all(np.array_equal(a, b) for a, b in pairs)


if __name__ == "__main__":
    whole = build()
    callbacks = keras.callbacks
    writers = [
        callbacks.ModelCheckpoint(FOLDER / "model-{epoch:02d}.keras"),
        callbacks.ModelCheckpoint(FOLDER / "model.weights.h5", save_weights_only=True),
        callbacks.BackupAndRestore(FOLDER / "backup", delete_checkpoint=False),
    ]
    train(whole, 2, callbacks=writers)
    train(whole, 4, first=2)
    keep = mk.open(FOLDER / "keep")
    for number, source in enumerate(("model-02.keras", "model.weights.h5", "backup")):
        found = keep.adopt(FOLDER / source, run=f"{number}")
        assert (found.kind, found.checkpoint.step) == ("keras", 16), found
        assert found.epoch == (2 if source == "backup" else None), found
        model = build()
        history = mk.keras.fit(
            model, X, Y, batch_size=8, verbose=0, epochs=3, shuffle=False, run=keep.run(f"{number}", seed=3)
        )
        assert history.epoch == [2], history.epoch
        model = build()  # another process: the run has checkpoints of its own now
        with keep.run(f"{number}", seed=3) as run:
            mk.keras.fit(model, X, Y, batch_size=8, verbose=0, epochs=4, shuffle=False, run=run)
            assert not run.exact
        assert same(model, whole), source
    keep.adopt(FOLDER / "backup", run="callback")
    model = build()
    with keep.run("callback") as run:
        train(model, 4, callbacks=[mk.keras.Checkpoint(run)])
    assert same(model, whole)
    print("the same")
