"""Pre-train on the digits 0 to 4, start from that on 5 to 9 with few images, and compare with starting from nothing.

``python docs/transfer_digits.py [SEEDS]``: it keeps its models in a folder of its own, and prints a table.
"""

import sys
import tempfile
import time

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import modelkeep as mk

IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = (IMAGES / 16).astype("float32").reshape(-1, 8, 8, 1)


def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, activation="relu", name="edges"),
            layers.Conv2D(32, 3, activation="relu", name="parts"),
            layers.Flatten(),
            layers.Dense(64, "relu", name="shapes"),
            layers.Dense(5, "softmax", name="digit"),
        ]
    )


def chosen(digits, each, seed):
    """So many images of each digit to train with (all of them for None), and 300 others to be asked."""
    rows = np.flatnonzero(np.isin(LABELS, digits))
    np.random.default_rng(seed).shuffle(rows)
    asked, taught = rows[:300], rows[300:]
    if each is not None:
        taught = np.concatenate([taught[LABELS[taught] == digit][:each] for digit in digits])
    return [(IMAGES[part], LABELS[part] - digits[0]) for part in (taught, asked)]


def trained(model, digits, each, seed):
    """The accuracy on images that it has not seen, and the seconds of its training."""
    (x, y), asked = chosen(digits, each, seed)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    started = time.perf_counter()
    model.fit(x, y, epochs=10, batch_size=8 if each else 32, verbose=0)
    seconds = time.perf_counter() - started
    return model.evaluate(*asked, verbose=0)[1], seconds


def main(seeds):
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        keep = mk.open(folder)
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)
            low = network()
            accuracy, _ = trained(low, range(5), None, seed)
            version = keep.publish("low-digits", low, metrics={"accuracy": accuracy})
            for each in (2, 5, None):
                scratch, transferred = network(), network()
                report = mk.transfer(transferred, version, keep=keep, skip=["shapes", "digit"], freeze="edges")
                for name, model in (("from scratch", scratch), ("transferred", transferred)):
                    found.setdefault((each, name), []).append(trained(model, range(5, 10), each, seed))
        print(report)
        print("the last one grew from", *[keep.publish("high-digits", transferred).parents[0].model])
    print(f"{'images of each digit':<22}{'':<14}accuracy  seconds")
    for (each, name), results in found.items():
        accuracy, seconds = np.mean(results, axis=0)
        print(f"{each or 'all':<22}{name:<14}{accuracy:8.3f}{seconds:9.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
