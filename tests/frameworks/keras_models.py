"""Keras models of many shapes, each built and compiled, for the tests that run once on every backend."""

import keras
import numpy as np
from keras import layers

DENSE = {"activation": "tanh"}


def functional():
    inputs = keras.Input((6,))
    shared = layers.Dense(6, **DENSE)
    x = layers.BatchNormalization()(shared(shared(inputs)))
    x = layers.Dropout(0.3)(layers.Dense(4, name="named", **DENSE)(x))
    return compiled(keras.Model(inputs, layers.Dense(2)(x)))


def sequential():
    block = keras.Sequential([layers.Dense(5, **DENSE), layers.LayerNormalization(), layers.Dense(4)])
    return compiled(keras.Sequential([keras.Input((6,)), layers.Dense(6), block, layers.Dense(2)]))


class Pieces(keras.Model):
    """Layers in attributes, lists and dicts, variables of its own, a seed generator and a metric of its own."""

    def __init__(self):
        super().__init__()
        self.first = layers.Dense(6, **DENSE)
        self.stack = [layers.Dense(6, **DENSE), layers.Dense(6, name="third")]
        self.heads = {"out": layers.Dense(2)}
        self.scale = self.add_weight(shape=(6,), initializer="ones", name="scale")
        self.unnamed = keras.Variable(np.ones((2,), "float32"))
        self.noise = keras.random.SeedGenerator(3)
        self.norm = keras.metrics.Mean(name="norm")

    def build(self, shape):
        self.first.build(shape)
        for layer in (*self.stack, self.heads["out"]):
            layer.build((None, 6))

    def call(self, x, training=False):
        x = self.first(x) * self.scale
        if training:
            x = x + 0.01 * keras.random.normal(keras.ops.shape(x), seed=self.noise)
        for layer in self.stack:
            x = layer(x)
        return self.heads["out"](x) + self.unnamed


def subclassed():
    model = Pieces()
    model.build((None, 6))
    return compiled(model)


def recurrent():
    inputs = keras.Input((6,))
    x = layers.Reshape((3, 2))(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, dropout=0.2))(x)
    x = layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)], return_sequences=True)(x)
    x = layers.TimeDistributed(layers.Dense(2))(x)
    return compiled(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))


def attention():
    inputs = keras.Input((6,))
    x = layers.Reshape((3, 2))(inputs)
    x = layers.MultiHeadAttention(2, 2, dropout=0.1)(x, x)
    x = layers.SpectralNormalization(layers.Dense(3))(layers.Flatten()(x))
    return compiled(keras.Model(inputs, layers.Dense(2)(x)))


def augmented():
    images = layers.Reshape((3, 2, 1))
    inputs = keras.Input((6,))
    x = layers.RandomTranslation(0.2, 0.2)(layers.RandomFlip(seed=5)(images(inputs)))
    x = layers.GaussianNoise(0.1)(layers.Conv2D(2, 2)(x))
    return compiled(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))


def normalized():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3, 2, (50, 6)).astype("float32"))
    return compiled(keras.Sequential([keras.Input((6,)), layer, layers.Dense(2)]))


def embedded():
    inputs = keras.Input((6,))
    tokens = layers.Lambda(lambda x: keras.ops.cast(keras.ops.abs(x) * 3, "int32"), output_shape=(6,))(inputs)
    x = layers.Flatten()(layers.Embedding(32, 3)(tokens))
    return compiled(keras.Model(inputs, layers.Dense(2)(x)))


def with_lora():
    model = functional()
    model.layers[1].enable_lora(2)
    return compiled(model)


def quantized(mode):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.Dense(2)])
    model.quantize(mode)
    return model


def mixed():
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    rest = [layers.Dense(4, dtype=policy), layers.Dense(2, dtype="float32")]
    model = keras.Sequential([keras.Input((6,)), *rest])
    return compiled(model, keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)))


def two_headed():
    inputs = keras.Input((6,))
    heads = [layers.Dense(2, name="left")(inputs), layers.Dense(2, name="right")(inputs)]
    model = keras.Model(inputs, heads)
    model.compile("sgd", ["mse", "mse"], metrics=[["mae"], ["mae", keras.metrics.MeanSquaredError()]])
    return model


def compiled(model, optimizer=None, *, run_eagerly=False):
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", metrics=["mae"], run_eagerly=run_eagerly)
    return model


def use_up_names():
    """Make a few of whatever Keras numbers through the process."""
    for _ in range(3):
        layers.TimeDistributed(layers.Dense(1)), layers.Bidirectional(layers.LSTM(1)), layers.RNN(layers.GRUCell(1))
        layers.MultiHeadAttention(1, 1), layers.SpectralNormalization(layers.Conv2D(1, 1)), layers.Embedding(1, 1)
        layers.Dropout(0.5), layers.GaussianNoise(0.5), layers.RandomFlip(), layers.RandomTranslation(0.1, 0.1)
        layers.BatchNormalization(), layers.LayerNormalization(), layers.Normalization(), layers.Flatten()
        keras.Sequential(), keras.metrics.Mean(), keras.Variable(0.0), keras.optimizers.Adam(), Pieces()


TRAINABLE = {
    "functional": functional,
    "sequential": sequential,
    "subclassed": subclassed,
    "recurrent": recurrent,
    "attention": attention,
    "augmented": augmented,
    "normalized": normalized,
    "embedded": embedded,
    "with_lora": with_lora,
    "mixed": mixed,
}

ALL = {
    **TRAINABLE,
    "int8": lambda: quantized("int8"),
    "int4": lambda: quantized("int4"),
    "float8": lambda: quantized("float8"),
}


def data(seed=0, rows=16):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 6)).astype("float32"), rng.normal(size=(rows, 2)).astype("float32")


def train(model, *, seed=0, callbacks=()):
    x, y = data(seed)
    return model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=list(callbacks))
