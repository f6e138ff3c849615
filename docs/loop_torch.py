"""A PyTorch loop that may be killed at any moment: run it again, and it goes on and ends with the same bits.

``python loop_torch.py FOLDER [EPOCHS]``; data are scikit-learn's digits.
"""

import hashlib
import sys

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import modelkeep as mk

BATCH = 64


def main(folder: str, epochs: int) -> None:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images.astype("float32") / 16), torch.from_numpy(labels)
    with mk.open(folder).run("digits", params={"lr": 1e-2}, seed=7) as run:  # which seeds every generator
        net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
        optimizer = torch.optim.AdamW(net.parameters(), lr=run.params["lr"])
        batches = len(x) // BATCH
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.params["lr"], total_steps=epochs * batches)
        with run.checkpoints(mk.every(steps=10), mk.retain(last=2, best=mk.best("loss"))) as ckpt:
            state, start = ckpt.restore({"net": net, "optimizer": optimizer, "schedule": schedule})
            for step in range(start, epochs * batches):
                epoch, batch = divmod(step, batches)
                order = np.random.default_rng([run.seed, epoch]).permutation(len(x))  # the same whenever it is asked
                rows = order[batch * BATCH : (batch + 1) * BATCH]
                loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                ckpt.step(step + 1, state, {"loss": loss}, epoch=(step + 1) // batches)
        run.finish({"epochs": epochs})
        weights = b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())
        print(f"from step {start} to {epochs * batches}: {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
