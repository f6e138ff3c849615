"""What the resume tests train: data, models and callbacks by name."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

ROWS, VALIDATION_ROWS, BATCH = 400, 100, 32


@dataclass
class Case:
    model: keras.Model
    data: tuple[Any, ...]
    callbacks: list[keras.callbacks.Callback]
    fit: dict[str, Any]
    files: list[Path] = field(default_factory=list)

    def observed(self) -> dict[str, Any]:
        """What the callbacks and their files ended with."""
        seen: dict[str, Any] = {str(path.name): path.read_text() for path in self.files}
        for callback in self.callbacks:
            for name in ("best", "wait", "best_epoch", "stopped_epoch", "cooldown_counter", "seen"):
                if hasattr(callback, name):
                    seen[f"{type(callback).__name__}.{name}"] = getattr(callback, name)
        return seen


def build(case: dict[str, Any], out: str) -> Case:
    model = MODELS[case.get("model", "cnn")](case)  # first: it says which devices there are
    data, fit = DATA[case["data"]]()
    callbacks, files = CALLBACKS[case.get("callbacks", "plateau")](out)
    return Case(model, data, callbacks, {"epochs": 5, **fit, **case.get("fit", {})}, files)


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    data = load_digits()
    x, y = (data.images[..., None] / 16).astype("float32"), data.target
    end = ROWS + VALIDATION_ROWS
    return x[:ROWS], y[:ROWS], x[ROWS:end], y[ROWS:end]


# Data: each gives the positional arguments of fit, and more of its arguments


def arrays() -> Any:
    x, y, val_x, val_y = digits()
    return (x, y), {"batch_size": BATCH, "validation_data": (val_x, val_y)}


def arrays_of_20() -> Any:
    x, y, val_x, val_y = digits()
    return (x, y), {"batch_size": 20, "shuffle": False, "validation_data": (val_x, val_y)}


def arrays_split() -> Any:
    x, y, _, _ = digits()
    return (x, y), {"batch_size": BATCH, "validation_split": 0.2, "shuffle": "batch"}


def arrays_weighted() -> Any:
    x, y, val_x, val_y = digits()
    weights = np.linspace(0.5, 1.5, len(x)).astype("float32")
    return (x, y), {"batch_size": BATCH, "sample_weight": weights, "validation_data": (val_x, val_y)}


def arrays_class_weight() -> Any:
    x, y, val_x, val_y = digits()
    return (x, y), {
        "batch_size": BATCH,
        "class_weight": {n: 1 + n / 10 for n in range(10)},
        "validation_data": (val_x, val_y),
        "validation_freq": 2,
    }


def arrays_steps() -> Any:
    x, y, val_x, val_y = digits()
    return (x, y), {"batch_size": BATCH, "steps_per_epoch": 9, "validation_data": (val_x, val_y)}


def tensors() -> Any:
    (x, y), fit = arrays()
    return (keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)), fit


def tf_data() -> Any:
    import tensorflow as tf

    x, y, val_x, val_y = digits()
    train = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(100)
    train = train.map(lambda image, label: (image * 0.5, label), num_parallel_calls=2).batch(BATCH).prefetch(2)
    validation = tf.data.Dataset.from_tensor_slices((val_x, val_y)).shuffle(50).batch(BATCH)
    return (train,), {"validation_data": validation}


def tf_data_repeated() -> Any:
    import tensorflow as tf

    x, y, val_x, val_y = digits()
    train = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(100).repeat().batch(BATCH)
    return (train,), {"steps_per_epoch": 11, "validation_data": (val_x, val_y)}


def tf_data_of_unknown_length() -> Any:
    (train,), fit = tf_data()
    return (train.filter(lambda images, labels: True),), fit


def arrays_of_several() -> Any:
    x, y, val_x, val_y = digits()
    both = [
        ({"image": images, "mean": images.mean(axis=(1, 2))}, {"digit": labels, "odd": labels % 2})
        for images, labels in ((x, y), (val_x, val_y))
    ]
    return both[0], {"batch_size": BATCH, "validation_data": both[1]}


class Digits(keras.utils.PyDataset):
    """Shuffles its own rows at each epoch's end, as people write it."""

    def __init__(self, x: np.ndarray, y: np.ndarray, **options: Any) -> None:
        super().__init__(**options)
        self.x, self.y = x, y
        self.rows = np.arange(len(x))

    @property
    def num_batches(self) -> int:
        return -(-len(self.x) // BATCH)

    def __getitem__(self, index: int) -> Any:
        rows = self.rows[index * BATCH : (index + 1) * BATCH]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self) -> None:
        np.random.shuffle(self.rows)


def py_dataset(**options: Any) -> Any:
    x, y, val_x, val_y = digits()
    return (Digits(x, y, **options),), {"validation_data": Digits(val_x, val_y)}


def loaded(kind: str, *, steps_per_epoch: int | None = None, **options: Any) -> Any:
    import loader_data

    x, y, val_x, val_y = digits()
    data = getattr(loader_data, kind)(x, y, **options)
    return (data,), {"validation_data": (val_x, val_y), "steps_per_epoch": steps_per_epoch}


DATA = {
    "arrays_of_20": arrays_of_20,
    "arrays": arrays,
    "arrays_split": arrays_split,
    "arrays_weighted": arrays_weighted,
    "arrays_class_weight": arrays_class_weight,
    "arrays_steps": arrays_steps,
    "tensors": tensors,
    "arrays_of_several": arrays_of_several,
    "tf_data": tf_data,
    "tf_data_of_unknown_length": tf_data_of_unknown_length,
    "tf_data_repeated": tf_data_repeated,
    "py_dataset": py_dataset,
    "py_dataset_threads": lambda: py_dataset(workers=2),
    "py_dataset_processes": lambda: py_dataset(workers=2, use_multiprocessing=True),
    "loader": lambda: loaded("loader", shuffle=True),
    "loader_weighted_workers": lambda: loaded("weighted"),
    "loader_stateful_workers": lambda: loaded("stateful"),
    "loader_stream": lambda: loaded("streamed", workers=0, steps_per_epoch=11),
    "loader_stream_workers": lambda: loaded("streamed", workers=2, steps_per_epoch=11),
    "loader_hugging_face": lambda: loaded("hugging_face"),
    "grain_map": lambda: loaded("grain_map"),
    "grain_stream": lambda: loaded("grain_stream", steps_per_epoch=11),
    "grain_loader": lambda: loaded("grain_loader", steps_per_epoch=11),
}


# Callbacks: each gives the list, and the files that they write


class Noise(keras.callbacks.Callback):
    """Draws from the process-wide generators, as users' callbacks do, and shows what it drew in the history."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["noise"] = random.random() + float(np.random.rand())


class Counter(keras.callbacks.Callback):
    """A callback of the user's own, with state."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += batch

    def get_state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def set_state(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def plateau(out: str) -> Any:
    callbacks = [
        keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(patience=1, min_delta=0.2),
        Noise(),
    ]
    return callbacks, []


def scheduled(out: str) -> Any:
    return [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.8), Noise()], []


def files(out: str) -> Any:
    log = Path(f"{out}.csv")
    callbacks = [
        keras.callbacks.CSVLogger(log),
        keras.callbacks.ModelCheckpoint(f"{out}.weights.h5", save_best_only=True, save_weights_only=True),
        Counter(),
        Noise(),
    ]
    return callbacks, [log]


def board(out: str) -> Any:
    return [keras.callbacks.TensorBoard(f"{out}.board"), keras.callbacks.TerminateOnNaN()], []


def averaged(out: str) -> Any:
    return [keras.callbacks.SwapEMAWeights()], []


class Stop(keras.callbacks.Callback):
    """Ends the training in the middle of its third epoch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 4 and len(self.model.history.epoch) == 2:
            self.model.stop_training = True


def stopping(out: str) -> Any:
    return [Stop(), Noise()], []


CALLBACKS = {
    "plateau": plateau,
    "scheduled": scheduled,
    "files": files,
    "board": board,
    "averaged": averaged,
    "stopping": stopping,
    "none": lambda out: ([], []),
}


# Models


def compiled(model: keras.Model, case: dict[str, Any], **options: Any) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate: Any = 1e-2
    if case.get("schedule") == "decayed":
        rate = keras.optimizers.schedules.ExponentialDecay(1e-2, 20, 0.9)
    optimizer = keras.optimizers.Adam(rate, **case.get("optimizer", {}))
    model.compile(optimizer, loss, metrics=["accuracy"], **{**case.get("compile", {}), **options})
    return model


def layers() -> list[Any]:
    kinds = keras.layers
    return [
        kinds.RandomTranslation(0.1, 0.1),
        kinds.Conv2D(8, 3, activation="relu"),
        kinds.BatchNormalization(),
        kinds.Flatten(),
        kinds.Dropout(0.3),
        kinds.Dense(10, dtype="float32"),
    ]


def cnn(case: dict[str, Any]) -> keras.Model:
    return compiled(keras.Sequential([keras.Input((8, 8, 1)), *layers()]), case)


class Noisy(keras.layers.Layer):
    """Draws in validations too, as the sampling layer of a variational autoencoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(keras.ops.shape(x), stddev=0.1, seed=self.seeds)


def noisy(case: dict[str, Any]) -> keras.Model:
    return compiled(keras.Sequential([keras.Input((8, 8, 1)), Noisy(), *layers()]), case)


def mixed(case: dict[str, Any]) -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    return cnn(case)


def two_headed(case: dict[str, Any]) -> keras.Model:
    image, mean = keras.Input((8, 8, 1), name="image"), keras.Input((1,), name="mean")
    x = keras.layers.RandomTranslation(0.1, 0.1)(image)
    x = keras.layers.Concatenate()([keras.layers.Flatten()(x), mean])
    x = keras.layers.Dropout(0.3)(keras.layers.Dense(16, activation="relu")(x))
    outputs = {name: keras.layers.Dense(units, name=name)(x) for name, units in (("digit", 10), ("odd", 2))}
    model = keras.Model({"image": image, "mean": mean}, outputs)
    loss = {name: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in outputs}
    model.compile(keras.optimizers.AdamW(1e-2), loss, metrics={"digit": ["accuracy"]}, **case.get("compile", {}))
    return model


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.body = layers()

    def call(self, x: Any, training: bool = False) -> Any:
        for layer in self.body:
            x = layer(x, training=training) if "training" in layer._call_signature.parameters else layer(x)
        return x


def subclassed(case: dict[str, Any]) -> keras.Model:
    return compiled(Subclassed(), case)


def custom_step(case: dict[str, Any]) -> keras.Model:
    """A model with a ``train_step`` of its own, written for each backend as Keras' guides do."""
    from own_step import own_step_model

    return compiled(own_step_model(keras.Input((8, 8, 1)), layers()), case)


def adapted(case: dict[str, Any]) -> keras.Model:
    """Low-rank adapters on a layer that is frozen but for them."""
    model = cnn(case)
    model.layers[-1].enable_lora(4)
    return compiled(model, case)


def quantized(case: dict[str, Any]) -> keras.Model:
    """A hidden layer in int8, trained through its low-rank adapter."""
    stack = layers()
    stack.insert(4, keras.layers.Dense(16, activation="relu", name="hidden"))
    model = keras.Sequential([keras.Input((8, 8, 1)), *stack])
    hidden = model.get_layer("hidden")
    hidden.enable_lora(4)
    hidden.quantize("int8")
    return compiled(model, case)


def recurrent(case: dict[str, Any]) -> keras.Model:
    """Keeps its state from batch to batch."""
    inputs = keras.Input(batch_shape=(20, 8, 8, 1))
    rows = keras.layers.Reshape((8, 8))(inputs)
    x = keras.layers.LSTM(12, stateful=True, recurrent_dropout=0.1)(rows)
    return compiled(keras.Model(inputs, keras.layers.Dense(10)(x)), case)


def adversarial(case: dict[str, Any]) -> keras.Model:
    """Two networks and two optimizers in one training step."""
    from own_step import adversarial_model

    return adversarial_model()


def distributed(case: dict[str, Any]) -> keras.Model:
    """On all devices that this process has, a part of each batch on each."""
    devices = keras.distribution.list_devices()
    assert len(devices) == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    return cnn(case)


def mirrored(case: dict[str, Any]) -> keras.Model:
    """On two devices under ``tf.distribute``, whose moving averages differ."""
    import tensorflow as tf

    devices = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(devices[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        return cnn(case)


MODELS = {
    "mirrored": mirrored,
    "adapted": adapted,
    "quantized": quantized,
    "recurrent": recurrent,
    "adversarial": adversarial,
    "distributed": distributed,
    "cnn": cnn,
    "noisy": noisy,
    "two_headed": two_headed,
    "mixed": mixed,
    "subclassed": subclassed,
    "custom_step": custom_step,
}
