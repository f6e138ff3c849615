"""Keras models of every shape that people build, each with inputs, for the tests of architectures on every backend."""

import keras
import numpy as np
from keras import layers, ops

TENSORFLOW_ONLY_WORDS = "text enters a model as strings, which only TensorFlow's tensors hold"


def vectors(width=6, count=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype("float32")


def images(side=16, channels=3, count=2):
    return np.random.default_rng(1).normal(size=(count, side, side, channels)).astype("float32")


def sequences(steps=5, width=4, count=3):
    return np.random.default_rng(2).normal(size=(count, steps, width)).astype("float32")


def sequential():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, "tanh"), layers.Dropout(0.2), layers.Dense(2)])
    model.compile("adam", "mse", metrics=["mae"])
    return model, vectors()


def sequential_without_input():
    model = keras.Sequential([layers.Dense(5, "relu"), layers.BatchNormalization(), layers.Dense(2)])
    model.build((None, 6))
    return model, vectors()


def functional():
    inputs = keras.Input((6,), name="x")
    hidden = layers.Dense(6, "gelu", kernel_regularizer="l2", kernel_constraint="max_norm")(inputs)
    hidden = layers.add([hidden, layers.LayerNormalization()(inputs)])
    model = keras.Model(inputs, layers.Dense(3, "softmax", kernel_initializer=keras.initializers.HeNormal(3))(hidden))
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    model.compile(keras.optimizers.SGD(schedule, 0.9), keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    return model, vectors()


def shared():
    inputs = keras.Input((6,))
    layer = layers.Dense(6, "tanh")
    return keras.Model(inputs, layers.Dense(2)(layer(layer(layer(inputs))))), vectors()


def nested():
    block = keras.Sequential([keras.Input((6,)), layers.Dense(6, "relu"), layers.BatchNormalization()], name="block")
    inner_in = keras.Input((6,))
    inner = keras.Model(inner_in, layers.Dense(4)(block(block(inner_in))), name="inner")
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.concatenate([inner(inputs), inner(layers.Dense(6)(inputs))])), vectors()


def many_inputs_and_outputs():
    one, two = keras.Input((6,), name="one"), keras.Input((4,), name="two")
    both = layers.concatenate([layers.Dense(5)(one), layers.Dense(5)(two)])
    outputs = {"class": layers.Dense(3, "softmax", name="class")(both), "value": layers.Dense(1, name="value")(both)}
    model = keras.Model({"one": one, "two": two}, outputs)
    model.compile("rmsprop", {"class": "categorical_crossentropy", "value": "mse"}, metrics={"value": ["mae", "mse"]})
    return model, {"one": vectors(6), "two": vectors(4)}


def lists_of_inputs():
    one, two = keras.Input((6,)), keras.Input((4,))
    return keras.Model([one, two], [layers.Dense(5)(one), layers.Dense(5)(two)]), [vectors(6), vectors(4)]


class Scale(layers.Layer):
    """A layer of somebody's program."""

    def __init__(self, factor=1.0, inner=None, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        self.inner = keras.saving.deserialize_keras_object(inner) if isinstance(inner, dict) else inner

    def build(self, shape):
        self.weight = self.add_weight(shape=(shape[-1],), initializer="ones", name="weight")
        if self.inner is not None and not self.inner.built:
            self.inner.build(shape)

    def call(self, x):
        x = x * self.weight * self.factor
        return x if self.inner is None else self.inner(x)

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "factor": self.factor, "inner": inner}


@keras.saving.register_keras_serializable("mine")
class Registered(layers.Layer):
    """A registered layer."""

    def call(self, x):
        return x + 1.0


@keras.saving.register_keras_serializable("mine")
def squash(x):
    return ops.tanh(x) * 0.5


def plain_function(x):
    return ops.relu(x) + 0.25


class Distance(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.mean(ops.abs(y_true - y_pred), axis=-1)


class Largest(keras.metrics.Metric):
    def __init__(self, name="largest", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign(ops.maximum(self.total, ops.max(y_pred)))

    def result(self):
        return self.total


class Tower(keras.Model):
    """A subclassed model with a configuration."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.first = layers.Dense(width, "relu")
        self.rest = [layers.Dense(width, "tanh"), layers.BatchNormalization()]
        self.head = Scale(3.0)

    def call(self, x):
        x = self.first(x)
        for layer in self.rest:
            x = layer(x)
        return self.head(x)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


CUSTOM = {
    "Scale": Scale,
    "mine>Registered": Registered,
    "squash": squash,
    "plain_function": plain_function,
    "Distance": Distance,
    "Largest": Largest,
    "Tower": Tower,
}


def custom():
    inputs = keras.Input((6,))
    x = Scale(2.0, inner=layers.Dense(5, activation=squash))(inputs)
    x = layers.Dense(4, activation=plain_function)(Registered()(x))
    model = keras.Model(inputs, x)
    model.compile("adam", Distance(), metrics=[Largest(), "mae"])
    return model, vectors()


def subclassed():
    model = Tower(5)
    x = vectors()
    model(x)
    model.compile("adam", "mse")
    return model, x


def quantized(mode):
    def made():
        model = keras.Sequential(
            [keras.Input((16,)), layers.Dense(8, "relu"), layers.EinsumDense("ab,bc->ac", 8), layers.Dense(4)]
        )
        model.quantize(mode)
        return model, vectors(16)

    return made


def quantized_embedding():
    model = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(20, 8), layers.Dense(2)])
    model.quantize("int8")
    return model, np.arange(12, dtype="int32").reshape(3, 4)


def lora():
    inputs = keras.Input((4,), dtype="int32")
    embedding, dense = layers.Embedding(20, 8), layers.Dense(8)
    conv = layers.Conv1D(6, 2)
    model = keras.Model(inputs, layers.Dense(3)(conv(dense(embedding(inputs)))))
    for layer in (embedding, dense, conv):
        layer.enable_lora(2, lora_alpha=6)  # and not the rank, which is what Keras takes where it forgets it
        adapter = layer.lora_embeddings_b if layer is embedding else layer.lora_kernel_b
        adapter.assign(np.full(adapter.shape, 0.125))
    return model, np.arange(12, dtype="int32").reshape(3, 4)


def lora_of_int8():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(8), layers.Dense(4)])
    model.quantize("int8")
    model.layers[0].enable_lora(2)
    return model, vectors(16)


def mixed(policy):
    def made():
        inputs = keras.Input((6,))
        hidden = layers.Dense(8, "relu", dtype=policy)(inputs)
        hidden = layers.LayerNormalization(dtype=policy)(hidden)
        model = keras.Model(inputs, layers.Dense(2, dtype="float32")(hidden))
        model.compile("adam", "mse")
        return model, vectors()

    return made


def recurrent():
    inputs = keras.Input((5, 4))
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(inputs)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True), backward_layer=None, merge_mode="sum")(x)
    x = layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)], return_sequences=True)(x)
    x = layers.TimeDistributed(layers.Dense(3))(layers.SimpleRNN(4, return_sequences=True)(x))
    return keras.Model(inputs, layers.LSTM(2, recurrent_dropout=0.1)(x)), sequences()


def attention():
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    x, scores = layers.MultiHeadAttention(2, 3, value_dim=2)(x, x, use_causal_mask=True, return_attention_scores=True)
    x = layers.GroupQueryAttention(3, 4, 2)(x, x)
    x = layers.Attention()([x, x]) + layers.AdditiveAttention()([x, x])
    return keras.Model(inputs, [x, scores]), sequences()


def convolutional():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    x = layers.SeparableConv2D(6, (3, 2), depth_multiplier=2)(x)
    x = layers.DepthwiseConv2D(3, activation=layers.LeakyReLU(0.2))(x)
    x = layers.Conv2D(6, 3, groups=3)(layers.GroupNormalization(2)(x))
    x = layers.Conv2DTranspose(3, 2, strides=2)(layers.MaxPooling2D()(layers.ZeroPadding2D(1)(x)))
    x = layers.PReLU(shared_axes=[1, 2])(layers.UpSampling2D()(layers.SpatialDropout2D(0.1)(x)))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x)), images()


def volumes():
    inputs = keras.Input((4, 6, 6, 2))
    x = layers.ConvLSTM2D(3, 2, return_sequences=True)(inputs)
    x = layers.Conv3D(2, 2)(x)
    return keras.Model(inputs, layers.Flatten()(layers.AveragePooling3D(2)(x))), np.ones((2, 4, 6, 6, 2), "float32")


def operations():
    inputs = keras.Input((6,))
    x = layers.Dense(6)(inputs)
    x = ops.where(x > 0, x, -float("inf"))
    x = ops.softmax(ops.concatenate([x[:, :3], ops.zeros_like(x[:, 3:])], axis=-1))
    x = ops.einsum("bi,bj->bij", x, x)[:, ..., ::2]
    x = (ops.reshape(x, (-1, 18)) - 0.5) * np.arange(18, dtype="float32")
    return keras.Model(inputs, ops.matmul(x, ops.transpose(x)) / 2), vectors()


def embedded():
    inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(30, 4, mask_zero=True)(inputs)
    x = layers.LSTM(3, return_sequences=True)(x)
    x = layers.Conv1D(4, 3, padding="causal", dilation_rate=2)(x)
    x = layers.Dense(2)(layers.RMSNormalization()(x))
    return keras.Model(inputs, x), np.arange(14, dtype="int32").reshape(2, 7)


def normalised():
    normal = layers.Normalization()
    normal.adapt(vectors(6, 50, 3) * 3 + 1)
    bins = layers.Discretization(num_bins=4, epsilon=0.01)
    bins.adapt(vectors(6, 50, 4))
    inputs = keras.Input((6,))
    fixed = layers.Normalization(mean=[1.0] * 6, variance=[0.5] * 6)(inputs)
    both = layers.concatenate([normal(inputs), fixed, layers.Rescaling(0.5)(inputs)])
    found = ops.cast(bins(inputs), "float32")
    return keras.Model(inputs, layers.Dense(3)(layers.concatenate([both, found]))), vectors()


def whole_numbers():
    lookup = layers.IntegerLookup(output_mode="multi_hot")
    lookup.adapt(np.array([[3], [5], [5], [9], [-2]]))
    known = layers.IntegerLookup(vocabulary=[7, 8, 9], num_oov_indices=2)
    inputs = keras.Input((2,), dtype="int64")
    x = layers.concatenate([ops.cast(known(inputs), "float32"), lookup(inputs)])
    x = layers.concatenate([x, layers.CategoryEncoding(10, "count")(inputs)])
    return keras.Model(inputs, layers.Dense(2)(x)), np.array([[3, 7], [9, 1], [5, 8]])


def words():
    import tensorflow as tf

    lines = ["the cat sat", "the dog sat on the mat", "línea\nnew", "日本 語"]
    text = layers.TextVectorization(output_mode="tf_idf")
    text.adapt(lines)
    ids = layers.TextVectorization(max_tokens=9, output_sequence_length=5, ngrams=2)
    ids.adapt(lines)
    names = layers.StringLookup(output_mode="one_hot")
    names.adapt(["a", "b", "b\nc", "a"])
    known = layers.StringLookup(vocabulary=["x", "y"], num_oov_indices=3)
    padded = layers.TextVectorization(max_tokens=20, output_mode="tf_idf", pad_to_max_tokens=True)
    padded.adapt(lines)
    inputs = keras.Input((1,), dtype="string")
    outputs = [text(inputs), ids(inputs), names(inputs), known(inputs), padded(inputs), layers.Hashing(7)(inputs)]
    return keras.Model(inputs, outputs), tf.constant([["the cat"], ["a"], ["b\nc"], ["x"], ["日本 mat"]])


def other_layers():
    inputs = keras.Input((6,))
    x = layers.SpectralNormalization(layers.Dense(4))(inputs)
    x = layers.UnitNormalization()(layers.ActivityRegularization(0.1)(layers.GaussianNoise(0.1)(x)))
    x = layers.Reshape((2, 2))(layers.AlphaDropout(0.1)(x))
    x = layers.Permute((2, 1))(layers.Softmax()(layers.ELU()(layers.ReLU(max_value=6)(x))))
    y = layers.RepeatVector(3)(layers.Flatten()(x))
    x = layers.Dot((1, 1))([x, layers.Masking()(x)])
    x = layers.Maximum()([x, layers.Minimum()([x, layers.Multiply()([x, x])])])
    return keras.Model(inputs, [layers.Subtract()([x, layers.Average()([x, x])]), layers.Cropping1D(1)(y)]), vectors()


def augmented():
    inputs = keras.Input((16, 16, 3))
    x = layers.RandomFlip()(layers.RandomRotation(0.1)(layers.RandomZoom(0.1)(layers.Rescaling(1 / 255)(inputs))))
    x = layers.Resizing(8, 8)(layers.CenterCrop(12, 12)(layers.RandomContrast(0.1)(x)))
    return keras.Model(inputs, layers.Conv2D(2, 3)(x)), images()


EVERYWHERE = {
    made.__name__: made
    for made in (
        sequential, sequential_without_input, functional, shared, nested, many_inputs_and_outputs, lists_of_inputs,
        custom, subclassed, quantized_embedding, lora, lora_of_int8, recurrent, attention, convolutional, volumes,
        operations, embedded, normalised, whole_numbers, other_layers, augmented,
    )
} | {
    "int8": quantized("int8"), "int4": quantized("int4"), "float8": quantized("float8"),
    "mixed_float16": mixed("mixed_float16"), "mixed_bfloat16": mixed("mixed_bfloat16"), "float64": mixed("float64"),
}  # fmt: skip
STRINGS = {"words": words}


def cases():
    """The cases that this backend runs."""
    return EVERYWHERE | (STRINGS if keras.backend.backend() == "tensorflow" else {})
