"""Models and layers of one's own that hold state outside of variables."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import modelkeep as mk
from modelkeep.errors import NotExact
from modelkeep.frameworks import keras as keras_door
from modelkeep.state import differences

X = np.random.default_rng(0).random((24, 4), np.float32)
Y = X.sum(axis=1, keepdims=True)


class Interrupted(Exception):
    pass


class Forgetful(keras.Model):
    """Weighs a loss by how many steps it has done, and by the batches that it remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.steps = 0
        self.remembered: list[float] = []
        self.interrupt = 0

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, data: Any) -> Any:
        self.steps += 1
        if self.steps == self.interrupt:
            raise Interrupted
        x, y = data
        self.remembered = [*self.remembered[-3:], float(tf.reduce_mean(y))]
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x)) * (self.steps % 5) * sum(self.remembered)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


class Declared(Forgetful):
    def get_state(self) -> dict[str, Any]:
        return {"steps": self.steps, "remembered": np.array(self.remembered)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.steps, self.remembered = state["steps"], state["remembered"].tolist()


def made(kind: type[Forgetful], interrupt: int = 0) -> Forgetful:
    keras.utils.set_random_seed(0)
    model = kind()
    model.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=True)
    model.interrupt = interrupt
    return model


def fit(model: keras.Model, run: mk.Run, epochs: int = 4) -> None:
    mk.keras.fit(model, X, Y, run=run, batch_size=4, epochs=epochs, verbose=0, checkpoint=mk.every(steps=2, epochs=1))


def test_what_a_model_declares_is_resumed(tmp_path: Path) -> None:
    keep = mk.open(tmp_path / "keep")
    whole = made(Declared)
    fit(whole, keep.run("whole", seed=1))
    for interrupt in (4, 9, 14):
        with suppress(Interrupted):
            fit(made(Declared, interrupt), keep.run("interrupted", seed=1))
    model = made(Declared)
    fit(model, keep.run("interrupted", seed=1))
    assert model.steps == whole.steps == 24
    assert model.remembered == whole.remembered
    assert not differences(keras_door.state_of(whole), keras_door.state_of(model))

    again = made(Declared)  # a finished run gives it back too
    fit(again, keep.run("interrupted", seed=1))
    assert (again.steps, again.remembered) == (whole.steps, whole.remembered)


def test_a_model_that_changes_from_step_to_step_and_declares_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotExact) as refused:
        fit(made(Forgetful), mk.open(tmp_path / "keep").run("r", seed=1))
    text = str(refused.value)
    assert "Forgetful changes self.remembered, self.steps from step to step" in text
    assert 'def get_state(self): return {"remembered": self.remembered, "steps": self.steps}' in text


def test_a_state_that_only_one_of_model_and_checkpoint_has_is_refused(tmp_path: Path) -> None:
    keep = mk.open(tmp_path / "keep")
    with suppress(Interrupted):
        fit(made(Declared, 9), keep.run("r", seed=1))

    class Undeclared(Forgetful):
        pass

    Undeclared.__name__ = "Declared"
    with pytest.raises(NotExact, match="layer 0 Declared had get_state when the checkpoint was written"):
        fit(made(Undeclared), keep.run("r", seed=1))
