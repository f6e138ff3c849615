"""A functional model with a ``train_step`` of its own, on each backend."""

from typing import Any

import keras


def own_step_model(inputs: Any, layers: list[Any]) -> keras.Model:
    x = inputs
    for layer in layers:
        x = layer(x)
    return _CLASSES[keras.backend.backend()]()(inputs, x)


def _tensorflow() -> type[keras.Model]:
    import tensorflow as tf

    class Model(keras.Model):
        def train_step(self, data: Any) -> Any:
            x, y = data
            with tf.GradientTape() as tape:
                loss = 0.5 * self.compute_loss(y=y, y_pred=(predicted := self(x, training=True)))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            for metric in self.metrics:
                metric.update_state(loss) if metric.name == "loss" else metric.update_state(y, predicted)
            return {metric.name: metric.result() for metric in self.metrics}

    return Model


def _torch() -> type[keras.Model]:
    import torch

    class Model(keras.Model):
        def train_step(self, data: Any) -> Any:
            x, y = data
            self.zero_grad()
            predicted = self(x, training=True)
            loss = 0.5 * self.compute_loss(y=y, y_pred=predicted)
            loss.backward()
            weights = list(self.trainable_weights)
            with torch.no_grad():
                self.optimizer.apply([weight.value.grad for weight in weights], weights)
            for metric in self.metrics:
                metric.update_state(loss) if metric.name == "loss" else metric.update_state(y, predicted)
            return {metric.name: metric.result() for metric in self.metrics}

    return Model


def _jax() -> type[keras.Model]:
    import jax

    class Model(keras.Model):
        def _loss(self, trainable: Any, other: Any, x: Any, y: Any) -> Any:
            predicted, other = self.stateless_call(trainable, other, x, training=True)
            return 0.5 * self.compute_loss(y=y, y_pred=predicted), (predicted, other)

        def train_step(self, state: Any, data: Any) -> Any:
            trainable, other, optimizer, metrics = state
            x, y = data
            (loss, (predicted, other)), gradients = jax.value_and_grad(self._loss, has_aux=True)(trainable, other, x, y)
            trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
            updated, logs = [], {}
            for metric in self.metrics:
                mine = metrics[len(updated) : len(updated) + len(metric.variables)]
                given = (loss,) if metric.name == "loss" else (y, predicted)
                mine = metric.stateless_update_state(mine, *given)
                logs[metric.name] = metric.stateless_result(mine)
                updated += mine
            return logs, (trainable, other, optimizer, updated)

    return Model


_CLASSES = {"tensorflow": _tensorflow, "torch": _torch, "jax": _jax}


def adversarial_model() -> keras.Model:
    """A generator and a discriminator, each with an optimizer of its own, as Keras' guide to GANs has them."""
    model = Adversarial()
    model.compile(keras.optimizers.Adam(1e-3, beta_1=0.5), keras.optimizers.Adam(3e-3, beta_1=0.5))
    return model


class Adversarial(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        dense = keras.layers.Dense
        self.seeds = keras.random.SeedGenerator(7)
        self.generator = keras.Sequential(
            [keras.Input((6,)), dense(24, "relu"), dense(64, "sigmoid"), keras.layers.Reshape((8, 8, 1))]
        )
        self.critic = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), dense(24, "relu"), keras.layers.Dropout(0.2), dense(1)]
        )
        self.loss_of = keras.losses.BinaryCrossentropy(from_logits=True)
        self.told = keras.metrics.Mean(name="critic_loss")

    def compile(self, optimizer: Any, critic_optimizer: Any) -> None:
        super().compile(optimizer)
        self.critic_optimizer = critic_optimizer

    def call(self, x: Any) -> Any:
        return self.critic(x)

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        images, _ = data
        noise = keras.random.normal((tf.shape(images)[0], 6), seed=self.seeds)
        with tf.GradientTape() as tape:
            both = tf.concat([self.critic(images, training=True), self.critic(self.generator(noise), training=True)], 0)
            rows = tf.shape(images)[0]
            truth = tf.concat([tf.ones((rows, 1)), tf.zeros((rows, 1))], 0)
            loss = self.loss_of(truth, both)
        weights = self.critic.trainable_weights
        self.critic_optimizer.apply(tape.gradient(loss, weights), weights)
        with tf.GradientTape() as tape:
            fooled = self.critic(self.generator(noise, training=True))
            made = self.loss_of(tf.ones_like(fooled), fooled)
        weights = self.generator.trainable_weights
        self.optimizer.apply(tape.gradient(made, weights), weights)
        self.told.update_state(loss)
        return {"critic_loss": self.told.result()}

    def test_step(self, data: Any) -> Any:
        predicted = self.critic(data[0])
        self.told.update_state(self.loss_of(keras.ops.ones_like(predicted), predicted))
        return {"critic_loss": self.told.result()}
