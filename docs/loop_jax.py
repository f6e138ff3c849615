"""A JAX loop (optax) that may be killed at any moment: run it again, and it goes on and ends with the same bits.

``python loop_jax.py FOLDER [EPOCHS]``; data are scikit-learn's digits.
"""

import hashlib
import sys

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import modelkeep as mk

BATCH = 64
OPTIMIZER = optax.adamw(1e-2)


def loss_of(params, x, y, key):
    hidden = jax.nn.relu(x @ params["first"]["w"] + params["first"]["b"])
    hidden *= jax.random.bernoulli(key, 0.7, hidden.shape) / 0.7
    logits = hidden @ params["last"]["w"] + params["last"]["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def train_step(state, x, y):
    key, now = jax.random.split(state["key"])
    loss, grads = jax.value_and_grad(loss_of)(state["params"], x, y, now)
    updates, moments = OPTIMIZER.update(grads, state["moments"], state["params"])
    return {"params": optax.apply_updates(state["params"], updates), "moments": moments, "key": key}, loss


def main(folder: str, epochs: int) -> None:
    images, labels = load_digits(return_X_y=True)
    x, y = images.astype("float32") / 16, labels.astype("int32")
    with mk.open(folder).run("digits", params={"width": 64}, seed=7) as run:
        key, first, last = jax.random.split(jax.random.key(run.seed), 3)
        params = {
            "first": {"w": jax.random.normal(first, (64, 64)) / 8, "b": jax.numpy.zeros(64)},
            "last": {"w": jax.random.normal(last, (64, 10)) / 8, "b": jax.numpy.zeros(10)},
        }
        batches = len(x) // BATCH
        with run.checkpoints(mk.every(steps=10), mk.retain(last=2, best=mk.best("loss"))) as ckpt:
            state, start = ckpt.restore({"params": params, "moments": OPTIMIZER.init(params), "key": key})
            for step in range(start, epochs * batches):
                epoch, batch = divmod(step, batches)
                order = np.random.default_rng([run.seed, epoch]).permutation(len(x))  # the same whenever it is asked
                rows = order[batch * BATCH : (batch + 1) * BATCH]
                state, loss = train_step(state, x[rows], y[rows])
                ckpt.step(step + 1, state, {"loss": loss}, epoch=(step + 1) // batches)
        run.finish({"epochs": epochs})
        weights = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state["params"]))
        print(f"from step {start} to {epochs * batches}: {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
