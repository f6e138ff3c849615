"""A training with PyTorch Lightning that may be killed at any moment: run it again, and it ends with the same bits.

``python train_lightning.py FOLDER [EPOCHS]``; data are scikit-learn's digits.
"""

import hashlib
import sys

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import modelkeep as mk


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def main(folder: str, epochs: int) -> None:
    images, labels = load_digits(return_X_y=True)
    run = mk.open(folder).run("digits", seed=7)  # which seeds every generator
    rows = TensorDataset(torch.from_numpy(images.astype("float32") / 16), torch.from_numpy(labels))
    model = Digits()
    checkpoint = mk.lightning.Checkpoint(run, checkpoint=mk.every(steps=10), retain=mk.retain(last=2))
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[checkpoint], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(rows, batch_size=64, shuffle=True))
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    print(f"{trainer.global_step} steps: {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
