"""Kinds of models for the matrix of exports; ``python tests/exporters/model_kinds.py FOLDER [KIND ...]`` tries them.

Run under any backend of Keras (``KERAS_BACKEND``). A line of JSON for each kind: by format the difference that was
verified, or the error that refuses it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import modelkeep as mk
from modelkeep.errors import ModelkeepError

FORMATS = ("savedmodel", "litert", "onnx", "tfjs", "stablehlo", "pt2")
ROWS = 3


@keras.saving.register_keras_serializable("kinds")
class Gate(layers.Layer):
    """A layer of one's own."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")

    def call(self, inputs: Any) -> Any:
        return inputs * keras.ops.sigmoid(keras.ops.matmul(inputs, self.kernel))


@keras.saving.register_keras_serializable("kinds")
class Gated(keras.Model):
    """A subclassed model."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gate, self.head = Gate(), layers.Dense(3, "softmax")

    def call(self, inputs: Any) -> Any:
        return self.head(self.gate(inputs))

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


def mlp() -> Any:
    return keras.Sequential([keras.Input((8,), name="x"), layers.Dense(16, "gelu"), layers.Dense(4, "softmax")])


def cnn() -> Any:
    inner = [layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), layers.MaxPool2D()]
    end = [layers.Dropout(0.5), layers.Flatten(), layers.Dense(4, "softmax")]
    model = keras.Sequential([keras.Input((12, 12, 1), name="x"), *inner, *end])
    rng = np.random.default_rng(1)
    model.layers[1].set_weights([rng.random(one.shape) + 0.5 for one in model.layers[1].get_weights()])
    return model


def separable() -> Any:
    inner = [
        layers.DepthwiseConv2D(3),
        layers.SeparableConv2D(6, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
    ]
    return keras.Sequential([keras.Input((12, 12, 3), name="x"), *inner, layers.Dense(4)])


def application(name: str) -> Callable[[], Any]:
    def build() -> Any:
        model = getattr(keras.applications, name)(
            weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
        )
        return settled(model, np.random.default_rng(4).normal(size=(8, 64, 64, 3)).astype("float32"))

    return build


def settled(model: Any, batch: Any) -> Any:
    """The model with the statistics of a batch, so that no signal dies in layers that were never trained."""
    normalizations = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for layer in normalizations:
        layer.momentum = 0.0
    model(batch, training=True)
    for layer in normalizations:
        layer.momentum = 0.99
    return model


def lstm() -> Any:
    return keras.Sequential([keras.Input((12, 8), name="x"), layers.LSTM(5, return_sequences=True), layers.LSTM(4)])


def bigru() -> Any:
    return keras.Sequential([keras.Input((12, 8), name="x"), layers.Bidirectional(layers.GRU(5)), layers.Dense(2)])


def transformer() -> Any:
    ids = keras.Input((10,), dtype="int32", name="ids")
    x = layers.Embedding(50, 16)(ids)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
    x = layers.Dense(16, "gelu")(x)
    return keras.Model(ids, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def multi_io() -> Any:
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    both = layers.Concatenate()([a, b])
    return keras.Model({"a": a, "b": b}, {"sum": layers.Dense(2)(both), "part": layers.Dense(3)(a)})


def normalization() -> Any:
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(2).normal(3, 2, (64, 5)).astype("float32"))
    return keras.Sequential([keras.Input((5,), name="x"), layer, layers.Dense(2)])


def string_lookup() -> Any:
    text = keras.Input((1,), dtype="string", name="word")
    found = layers.StringLookup(vocabulary=["red", "green", "blue"])(text)
    return keras.Model(text, layers.Flatten()(layers.Embedding(5, 3)(found)))


def text_vectorization() -> Any:
    layer = layers.TextVectorization(output_sequence_length=4)
    layer.adapt(["red green blue"])
    text = keras.Input((), dtype="string", name="text")
    return keras.Model(text, layers.Flatten()(layers.Embedding(8, 2)(layer(text))))


def subclassed() -> Any:
    model = Gated()
    model(np.zeros((1, 6), "float32"))
    return model


def mixed_precision() -> Any:
    inner = [layers.Dense(16, "relu", dtype="mixed_float16"), layers.Dense(4, dtype="float32")]
    return keras.Sequential([keras.Input((8,), name="x"), *inner])


def int8() -> Any:
    model = mlp()
    model.quantize("int8")
    return model


def lora() -> Any:
    model = mlp()
    model.layers[0].enable_lora(4)
    down, up = model.layers[0].lora_kernel_a, model.layers[0].lora_kernel_b
    rng = np.random.default_rng(3)
    down.assign(rng.normal(size=down.shape))
    up.assign(rng.normal(size=up.shape))
    return model


KINDS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "MLP, gelu": (mlp, (8,)),
    "CNN, BatchNorm": (cnn, (12, 12, 1)),
    "depthwise, separable": (separable, (12, 12, 3)),
    "MobileNetV2": (application("MobileNetV2"), (64, 64, 3)),
    "EfficientNetB0": (application("EfficientNetB0"), (64, 64, 3)),
    "ResNet50": (application("ResNet50"), (64, 64, 3)),
    "LSTM x 2": (lstm, (12, 8)),
    "BiGRU": (bigru, (12, 8)),
    "transformer": (transformer, (10,)),
    "dicts in and out": (multi_io, ()),
    "Normalization": (normalization, (5,)),
    "StringLookup": (string_lookup, (1,)),
    "TextVectorization": (text_vectorization, ()),
    "subclassed, own layer": (subclassed, (6,)),
    "mixed precision": (mixed_precision, (8,)),
    "int8 (Keras)": (int8, (8,)),
    "LoRA": (lora, (8,)),
}


def example(name: str, shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(0)
    if name in {"StringLookup", "TextVectorization"}:
        return np.array(["red", "blue green", "grey"], object).reshape((ROWS, *shape))
    if name == "transformer":
        return rng.integers(0, 50, (ROWS, *shape)).astype("int32")
    if name == "dicts in and out":
        return {"a": rng.random((ROWS, 3), "float32"), "b": rng.random((ROWS, 4), "float32")}
    return rng.normal(size=(ROWS, *shape)).astype("float32")


OWN = {"kinds>Gate": Gate, "kinds>Gated": Gated}


def cell(keep: Any, version: Any, to: str, folder: Path) -> str:
    try:
        keep.export(version, to, folder / f"{version.model}.{to}", custom_objects=OWN)
    except ModelkeepError as error:
        return f"{type(error).__name__}: {error}"
    proof = next(proof for export, proof in keep.exports(version) if export.format == to)
    first = proof["runtimes"][0]
    return f"{max(batch['max_rel'] for batch in first['batches']):.0e}"


def main(folder: Path, names: list[str]) -> None:
    keep = mk.open(folder / "keep")
    for number, name in enumerate(names or KINDS):
        keras.utils.set_random_seed(7)
        build, shape = KINDS[name]
        row: dict[str, Any] = {"kind": name, "backend": keras.backend.backend()}
        try:
            version = keep.publish(f"kind-{number}", build(), example=example(name, shape))
        except ModelkeepError as error:
            row["none"] = f"{type(error).__name__}: {error}"
        else:
            row["cells"] = {to: cell(keep, version, to, folder) for to in FORMATS}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
