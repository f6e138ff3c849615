"""A TensorFlow loop (GradientTape) that may be killed at any moment: run it again, and it ends with the same bits.

``python loop_tensorflow.py FOLDER [EPOCHS]``; data are scikit-learn's digits.
"""

import hashlib
import os
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import modelkeep as mk

BATCH = 64


def main(folder: str, epochs: int) -> None:
    images, labels = load_digits(return_X_y=True)
    x, y = images.astype("float32") / 16, labels.astype("int32")
    with mk.open(folder).run("digits", params={"lr": 1e-2}, seed=7) as run:  # which seeds every generator
        layers = keras.layers
        net = keras.Sequential([keras.Input((64,)), layers.Dense(64, "relu"), layers.Dropout(0.3), layers.Dense(10)])
        optimizer = keras.optimizers.AdamW(run.params["lr"])
        optimizer.build(net.trainable_variables)
        loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        @tf.function
        def train_step(images, labels):
            with tf.GradientTape() as tape:
                loss = loss_of(labels, net(images, training=True))
            optimizer.apply(tape.gradient(loss, net.trainable_variables))
            return loss

        batches = len(x) // BATCH
        with run.checkpoints(mk.every(steps=10), mk.retain(last=2, best=mk.best("loss"))) as ckpt:
            state, start = ckpt.restore({"net": net, "optimizer": optimizer})
            for step in range(start, epochs * batches):
                epoch, batch = divmod(step, batches)
                order = np.random.default_rng([run.seed, epoch]).permutation(len(x))  # the same whenever it is asked
                rows = order[batch * BATCH : (batch + 1) * BATCH]
                loss = train_step(x[rows], y[rows])
                ckpt.step(step + 1, state, {"loss": loss}, epoch=(step + 1) // batches)
        run.finish({"epochs": epochs})
        weights = b"".join(np.asarray(one).tobytes() for one in net.get_weights())
        print(f"from step {start} to {epochs * batches}: {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
