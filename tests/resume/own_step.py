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
