"""A training with Hugging Face's Trainer that may be killed: run it again, and it ends with the same bits.

``python train_transformers.py FOLDER [EPOCHS]``; a small BERT learns the digits of scikit-learn as 64 tokens.
"""

import hashlib
import sys

import torch
from sklearn.datasets import load_digits
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import modelkeep as mk


def main(folder: str, epochs: int) -> None:
    images, labels = load_digits(return_X_y=True)
    rows = [
        {"input_ids": torch.tensor(image, dtype=torch.long), "labels": torch.tensor(label)}
        for image, label in zip(images[:320], labels, strict=False)
    ]
    run = mk.open(folder).run("digits", seed=7)  # which seeds every generator
    config = BertConfig(
        vocab_size=17, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=10,
        max_position_embeddings=64,
    )  # fmt: skip
    settings = TrainingArguments(
        f"{folder}/trainer", num_train_epochs=epochs, per_device_train_batch_size=32, save_strategy="no", use_cpu=True,
        report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(BertForSequenceClassification(config), settings, train_dataset=rows)
    output = mk.transformers.train(trainer, run=run, checkpoint=mk.every(steps=5), retain=mk.retain(last=2))
    weights = b"".join(tensor.numpy().tobytes() for tensor in trainer.model.state_dict().values())
    print(f"{output.global_step} steps: {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
