"""One training with Lightning: ``CASE KEEP``. Prints a digest of all that it ends with."""

import hashlib
import json
import logging
import sys
import warnings
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torchmetrics
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

import modelkeep as mk

ROWS, BATCH, EPOCHS = 96, 8, 4


class Rows(Dataset):
    """Rows with noise of every generator."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = np.random.default_rng(row).normal(size=6).astype("float32")
        noise = np.random.normal(size=6).astype("float32") + torch.randn(6).numpy()
        return torch.from_numpy(x + 0.1 * noise), torch.tensor(int(x.sum() > 0))


class Stream(IterableDataset):
    """The same, in an order that it draws, without a length."""

    def __iter__(self) -> Any:
        rows = Rows()
        return (rows[int(row)] for row in torch.randperm(ROWS))


class Net(pl.LightningModule):
    """Dropout, batch normalization, a metric object, an average of weights, and a buffer that is in no state dict."""

    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.case = case
        self.automatic_optimization = not case.get("manual")
        self.net = torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(0.3),
            torch.nn.Linear(16, 2),
        )  # fmt: skip
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=2)
        self.register_buffer("average", torch.zeros(2, 16))
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        x, y = batch
        out = self.net(x)
        loss = torch.nn.functional.cross_entropy(out, y)
        self.accuracy(out, y)
        self.seen += len(x)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.log("largest", out.detach().max(), on_epoch=True, on_step=False, reduce_fx="max")
        self.log("seen", self.seen)
        if self.case.get("manual"):
            optimizer = self.optimizers()
            self.manual_backward(loss)
            if index % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.average.mul_(0.9).add_(0.1 * self.net[4].weight.detach())

    def validation_step(self, batch: Any, index: int) -> None:
        x, y = batch
        self.log("val_loss", torch.nn.functional.cross_entropy(self.net(x), y) + 0.01 * torch.rand(()))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        if self.case.get("plateau"):
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=200)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class History(pl.Callback):
    """What each epoch has shown, and draws of its own."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.rows.append([float(np.random.random())])

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        self.rows[-1].append(float(torch.rand(())))

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        names = sorted(trainer.callback_metrics)
        self.rows.append([float(trainer.callback_metrics[name]) for name in names])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [list(row) for row in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


def loader(case: dict[str, Any]) -> DataLoader:
    if case.get("stream"):
        return DataLoader(Stream(), batch_size=BATCH, num_workers=case.get("workers", 0))
    sampler = WeightedRandomSampler(np.linspace(0.1, 1, ROWS).tolist(), ROWS) if case.get("weighted") else None
    shuffle = None if sampler else True
    return DataLoader(Rows(), batch_size=BATCH, shuffle=shuffle, sampler=sampler, num_workers=case.get("workers", 0))


def main() -> None:
    case, keep = json.loads(sys.argv[1]), mk.open(sys.argv[2])
    warnings.filterwarnings("ignore", category=UserWarning)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    run = keep.run("net", seed=5)
    module, history = Net(case), History()
    stopper = pl.callbacks.EarlyStopping("loss_epoch", patience=case.get("patience", 50), check_on_train_epoch_end=True)
    checkpoint = mk.lightning.Checkpoint(run, checkpoint=mk.every(steps=case.get("every", 2)))
    trainer = pl.Trainer(
        max_epochs=EPOCHS, callbacks=[checkpoint, history, stopper], logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, accelerator="cpu", devices=1,
        default_root_dir=sys.argv[2], **case.get("trainer", {}),
    )  # fmt: skip
    validation = DataLoader(Rows(), batch_size=32, shuffle=True, num_workers=case.get("val_workers", 0))
    trainer.fit(module, loader(case), validation)
    digest = hashlib.sha256(repr(history.rows).encode())
    tensors = [
        *module.state_dict().values(),
        *(v for s in trainer.optimizers[0].state.values() for _, v in sorted(s.items())),
    ]
    for one in tensors:
        digest.update(one.numpy().tobytes())
    schedule = trainer.lr_scheduler_configs[0].scheduler.state_dict()
    digest.update(json.dumps(schedule, sort_keys=True, default=str).encode())
    print(f"{trainer.current_epoch} epochs, {trainer.global_step} steps, exact {run.exact}: {digest.hexdigest()}")


if __name__ == "__main__":
    main()
