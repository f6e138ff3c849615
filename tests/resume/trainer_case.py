"""One training with the Trainer of Hugging Face: ``CASE KEEP``. Prints a digest of all that it ends with."""

import hashlib
import json
import sys
import tempfile
import warnings
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset

import modelkeep as mk

ROWS = 44


class Rows(Dataset):
    """Sentences of numbers, some of which are masked at random."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        tokens = np.random.default_rng(row).integers(4, 30, 12)
        masked = np.where(np.random.random(12) < 0.2, 3, tokens)
        masked[int(torch.randint(12, ()))] = 3
        return {"input_ids": torch.tensor(masked), "labels": torch.tensor(tokens)}


class Draws(transformers.TrainerCallback):
    """Draws at each start."""

    def __init__(self) -> None:
        self.last = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        torch.rand(())

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.last = float(np.random.random())


def main() -> None:
    case, keep = json.loads(sys.argv[1]), mk.open(sys.argv[2])
    warnings.filterwarnings("ignore", category=UserWarning)
    transformers.logging.set_verbosity_error()
    run = keep.run("net", seed=5)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12,
    )  # fmt: skip
    draws = Draws()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "num_train_epochs": 3, "learning_rate": 0.01, "lr_scheduler_type": "cosine", "warmup_steps": 4,
            "eval_strategy": "steps", "eval_steps": 4, "logging_steps": 3, "save_strategy": "no", "report_to": [],
            "disable_tqdm": True, "metric_for_best_model": "loss", "greater_is_better": False, "use_cpu": True,
            "per_device_train_batch_size": 4, "per_device_eval_batch_size": 16,
        }  # fmt: skip
        args = transformers.TrainingArguments(folder, **(settings | case.get("args", {})))
        trainer = transformers.Trainer(
            transformers.BertForMaskedLM(config), args, train_dataset=Rows(), eval_dataset=Rows(),
            callbacks=[draws, transformers.EarlyStoppingCallback(case.get("patience", 50))],
        )  # fmt: skip
        output = mk.transformers.train(trainer, run=run, checkpoint=mk.every(steps=case.get("every", 2)))
    clocks = ("runtime", "per_second")
    log = [{k: v for k, v in row.items() if not k.endswith(clocks)} for row in trainer.state.log_history]
    digest = hashlib.sha256(json.dumps([log, output.training_loss], sort_keys=True).encode())
    for _, one in sorted(trainer.model.state_dict().items()):
        digest.update(one.numpy().tobytes())
    with keep.run("net") as run:
        tree = run.resumed[1]["state"]["optimizer"]["state"]
    digest.update(b"".join(tree[key][name].tobytes() for key in sorted(tree) for name in sorted(tree[key])))
    print(f"{trainer.state.epoch} epochs, {output.global_step} steps, exact {run.exact}: {digest.hexdigest()}")


if __name__ == "__main__":
    main()
