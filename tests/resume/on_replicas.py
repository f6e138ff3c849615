"""Trainings on two replicas of ``tf.distribute``, in a process whose devices they may set.

``python on_replicas.py KEEP`` prints what came out as one line of JSON.
"""

import json
import sys
from contextlib import suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import modelkeep as mk
from modelkeep.frameworks import keras as keras_door
from modelkeep.frameworks import tensorflow as tensorflow_door
from modelkeep.state import differences

KEEP = mk.open(sys.argv[1])
X = np.random.default_rng(0).random((20, 4), np.float32)
Y = X.sum(axis=1, keepdims=True)


class Interrupted(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Raises after so many steps of the whole training."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(self.model.optimizer.iterations.numpy()) == self.after:
            raise Interrupted

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass


class Drifting(keras.layers.Layer):
    """Changes a weight, that is trained besides, by what this replica sees."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x: Any) -> Any:
        self.scale.assign(keras.ops.mean(x))
        return x * self.scale


def model(strategy: tf.distribute.Strategy, *more: keras.layers.Layer, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    kinds = keras.layers
    with strategy.scope():
        layers = [kinds.Dense(8), kinds.BatchNormalization(), kinds.Dropout(0.5), *more, kinds.Dense(1)]
        made = keras.Sequential([keras.Input((4,)), *layers])
        made.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"], **options)
    return made


def fit(one: keras.Model, name: str, interrupt: int, **options: Any) -> keras.callbacks.History:
    return mk.keras.fit(
        one, X, Y, run=KEEP.run(name, seed=0), callbacks=[Interrupt(interrupt)], checkpoint=mk.every(steps=1),
        **{**PLAIN, **options},
    )  # fmt: skip


PLAIN: dict[str, Any] = {
    "batch_size": 4, "epochs": 4, "verbose": 0, "shuffle": False, "validation_data": (X, Y)
}  # fmt: skip


def resumed(strategy: tf.distribute.Strategy, name: str) -> dict[str, Any]:
    """Interrupted three times, beside one that is not.

    ``Model.fit`` ends with the same bits, but is not asked here: the iterator that it uses, which ``mk.keras.fit`` does
    not, crashes now and then when a validation ends (TensorFlow 2.21, MultiDeviceIterator).
    """
    whole = model(strategy)
    history = fit(whole, f"{name}-whole", 0)
    for after in (3, 7, 12):
        with suppress(Interrupted):
            fit(model(strategy), name, after)
    last = model(strategy)
    resumed = fit(last, name, 0)
    state = keras_door.state_of(last)
    means = state.get("replicas", {}).get("model", {}).get("batch_normalization", {}).get("moving_mean", {})
    return {
        "differences": differences(keras_door.state_of(whole), state),
        "histories": history.history == resumed.history,
        "means": [mean.tolist() for mean in means.values()],
    }


def refusal(one: keras.Model, name: str, **options: Any) -> str:
    try:
        fit(one, name, 0, **options)
    except mk.errors.ModelkeepError as error:
        return str(error)
    return ""


def own_loop(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """The state of variables as a loop of one's own has them."""
    with strategy.scope():
        module = tf.Module()
        module.weight = tf.Variable([1.0, 2.0])
        module.average = tf.Variable([0.0], trainable=False)

    @tf.function
    def step() -> None:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        module.average.assign([tf.cast(replica, tf.float32) + 1])

    strategy.run(step)
    state = tensorflow_door.state_of(module)
    module.average.assign([9.0])
    tensorflow_door.load_into(module, state)
    return {
        "state": {name: np.asarray(value).tolist() for name, value in state.items()},
        "after": [value.numpy().tolist() for value in module.average.values],
    }


def main() -> None:
    devices = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(devices[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    one = tf.distribute.OneDeviceStrategy("CPU:1")
    central = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"], "CPU:0")
    print(
        json.dumps(
            {
                "two": resumed(two, "two"),
                "one": resumed(one, "one"),
                "fewer": refusal(model(one), "two", epochs=5) + refusal(model(one), interrupted(two), epochs=5),
                "drifting": refusal(model(two, Drifting()), "drifting"),
                "several steps": refusal(model(two, steps_per_execution=2), "several"),
                "central": refusal(model(central), "central"),
                "own loop": own_loop(two),
            }
        )
    )


def interrupted(strategy: tf.distribute.Strategy) -> str:
    with suppress(Interrupted):
        fit(model(strategy), "interrupted", 3)
    return "interrupted"


if __name__ == "__main__":
    main()
