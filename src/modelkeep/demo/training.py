"""The training that the demonstration kills: a small CNN on scikit-learn's handwritten digits.

Run it yourself, kill it, run it again: ``python -m modelkeep.demo.training KEEP RUN``.
"""

import sys
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

import modelkeep as mk

EPOCHS = 12


class LossPerStep(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Remembers the loss of every step, through any kill, for the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float(logs["loss"]))

    def get_state(self) -> dict[str, Any]:
        return {"losses": np.array(self.losses)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.losses = state["losses"].tolist()


def digits() -> tuple[Any, Any, Any, Any]:
    """The 1,797 digits of scikit-learn: ``x`` float32 (n, 8, 8, 1) in 0..1, ``y`` int64 (n,); train, then test."""
    data = load_digits()
    images = (data.images / 16.0).astype("float32")[..., None]
    return images[:1500], data.target[:1500], images[1500:], data.target[1500:]


def cnn() -> keras.Model:
    """A convolutional net with augmentation, batch norm and dropout: all that makes a resume hard."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.RandomTranslation(0.1, 0.1),
            layers.RandomRotation(0.05),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.4),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model


def train(keep: str, name: str) -> None:
    """Start the run ``name`` in ``keep``, or go on with it."""
    run = mk.open(keep).run(name, params={"batch_size": 50, "epochs": EPOCHS}, seed=7)
    x, y, test_x, test_y = digits()
    mk.keras.fit(
        cnn(),
        x,
        y,
        run=run,
        epochs=EPOCHS,
        batch_size=50,
        validation_data=(test_x, test_y),
        callbacks=[
            LossPerStep(),
            keras.callbacks.ReduceLROnPlateau(patience=1),
            keras.callbacks.EarlyStopping(patience=6, restore_best_weights=True),
        ],
        checkpoint=mk.every(steps=7, epochs=1),
        verbose=0,
    )
    run.close()


if __name__ == "__main__":
    train(*sys.argv[1:3])
