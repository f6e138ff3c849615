"""Functional graphs drawn at random: any shape that a person could connect, the same one for a seed on each backend."""

import random

import keras
import numpy as np
from keras import layers, ops


class Drawn:
    """A graph under construction: tensors of shape (batch, width) or (batch, steps, width)."""

    def __init__(self, seed, depth=2):
        self.chance = random.Random(seed)
        self.depth = depth
        self.inputs = [keras.Input(self.shape(), name=f"input_{n}") for n in range(self.chance.randint(1, 3))]
        self.tensors = list(self.inputs)
        self.used = []
        for _ in range(self.chance.randint(3, 12)):
            self.tensors.append(self.step())
        self.outputs = self.chance.sample(self.tensors[len(self.inputs) :], self.chance.randint(1, 2))

    def model(self):
        shape = self.chance.choice(["list", "dict"]) if len(self.outputs) > 1 else "one"
        outputs = {"list": self.outputs, "one": self.outputs[0]}.get(shape, dict(zip("ab", self.outputs, strict=False)))
        inputs = self.inputs if len(self.inputs) > 1 else self.inputs[0]
        return keras.Model(inputs, outputs)

    def shape(self):
        width = self.chance.choice([2, 3, 4, 6])
        return (width,) if self.chance.random() < 0.5 else (self.chance.choice([2, 4, 5]), width)

    def step(self):
        x = self.chance.choice(self.tensors)
        fitting = [self.same, self.dense, self.shared, self.operation, self.joined, self.inner, self.reshaped]
        fitting += [self.recurrent, self.convolved, self.attended] if len(x.shape) == 3 else []
        return self.chance.choice(fitting)(x)

    def dense(self, x):
        options = {
            "activation": self.chance.choice([None, "relu", "gelu", "tanh", keras.layers.LeakyReLU(0.3)]),
            "use_bias": self.chance.random() < 0.8,
            "kernel_regularizer": self.chance.choice([None, "l2", keras.regularizers.L1L2(0.1, 0.2)]),
            "kernel_initializer": self.chance.choice(["glorot_uniform", "orthogonal", keras.initializers.HeNormal(3)]),
        }
        return self.kept(layers.Dense(self.chance.randint(1, 7), **options))(x)

    def kept(self, layer):
        self.used.append(layer)
        return layer

    def shared(self, x):
        """A layer that is there already, called once more."""
        for layer in self.chance.sample(self.used, len(self.used)):
            if layer.input_spec is None or _accepts(layer, x):
                return layer(x)
        return self.dense(x)

    def same(self, x):
        made = self.chance.choice(
            [
                lambda: layers.BatchNormalization(momentum=0.9),
                layers.LayerNormalization,
                lambda: layers.Dropout(0.3, seed=self.chance.choice([None, 5])),
                lambda: layers.GaussianNoise(0.1),
                lambda: layers.PReLU(),
                lambda: layers.Rescaling(0.5, offset=1.0),
                lambda: layers.Activation("swish"),
                lambda: layers.UnitNormalization(),
            ]
        )
        return made()(x)

    def operation(self, x):
        return self.chance.choice(
            [
                lambda: x * 0.5 + 1.0,
                lambda: ops.tanh(x) - x,
                lambda: ops.where(x > 0, x, ops.zeros_like(x)),
                lambda: x[..., :1] + x,
                lambda: ops.softmax(x, axis=-1),
                lambda: ops.mean(x, axis=-1, keepdims=True),
                lambda: ops.concatenate([x, ops.abs(x)], axis=-1),
                lambda: x / np.float32(3.0),
            ]
        )()

    def joined(self, x):
        others = [one for one in self.tensors if one.shape[:-1] == x.shape[:-1]]
        equal = [one for one in others if one.shape == x.shape]
        other = self.chance.choice(others)
        ways = [layers.Concatenate()]
        if any(other is one for one in equal):
            ways += [layers.Add(), layers.Multiply(), layers.Maximum(), layers.Average(), layers.Subtract()]
        return self.chance.choice(ways)([x, other])

    def inner(self, x):
        """A model within the model, called once or twice."""
        if not self.depth:
            return self.dense(x)
        drawn = Drawn(self.chance.random(), self.depth - 1)
        drawn.outputs = drawn.outputs[:1]
        model = drawn.model()
        model = self.chance.choice([model, keras.Sequential([model])]) if len(drawn.inputs) == 1 else model

        def called():
            given = [_fitted(x, one) for one in drawn.inputs]
            return model(given if len(given) > 1 else given[0])

        found = called()
        return layers.Add()([found, called()]) if self.chance.random() < 0.3 else found

    def reshaped(self, x):
        size = int(np.prod(x.shape[1:]))
        if len(x.shape) == 2:
            return layers.Reshape((1, size))(x) if self.chance.random() < 0.5 else layers.RepeatVector(2)(x)
        return self.chance.choice([layers.Flatten, layers.GlobalAveragePooling1D, lambda: layers.Permute((2, 1))])()(x)

    def recurrent(self, x):
        kind = self.chance.choice([layers.LSTM, layers.GRU, layers.SimpleRNN])
        layer = kind(self.chance.randint(1, 4), return_sequences=self.chance.random() < 0.5)
        return (layers.Bidirectional(layer) if self.chance.random() < 0.4 else layer)(x)

    def convolved(self, x):
        kind = self.chance.choice([layers.Conv1D, layers.SeparableConv1D, layers.Conv1DTranspose])
        return kind(self.chance.randint(1, 5), 2, padding="same")(x)

    def attended(self, x):
        return layers.MultiHeadAttention(self.chance.randint(1, 2), 2)(x, x)


def _accepts(layer, x):
    spec = layer.input_spec
    axes = spec.axes or {}
    fits = all(x.shape[axis] == size for axis, size in axes.items())
    return fits and (spec.min_ndim or 0) <= len(x.shape)


def _fitted(x, wanted):
    """``x`` in the shape of an input, through layers."""
    size = int(np.prod(wanted.shape[1:]))
    flat = layers.Dense(size)(layers.Flatten()(x))
    return layers.Reshape(wanted.shape[1:])(flat)


def cases(first, past):
    """Name -> a function that makes a graph and its inputs."""

    def made(seed):
        def make():
            drawn = Drawn(seed)
            values = np.random.default_rng(seed)
            given = [values.normal(size=(3, *one.shape[1:])).astype("float32") for one in drawn.inputs]
            return drawn.model(), given if len(given) > 1 else given[0]

        return make

    return {f"graph-{seed}": made(seed) for seed in range(first, past)}
