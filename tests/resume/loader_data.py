"""Loaders of torch, torchdata, Hugging Face and Grain for the resume tests, with augmentations that draw."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler, get_worker_info

BATCH = 32


class Augmented(Dataset[Any]):
    """Draws from every global generator, as torchvision's transforms and people's own do."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self._x, self._y = x, y

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, row: int) -> Any:
        image = torch.from_numpy(self._x[row]) + torch.randn(8, 8, 1) * 0.05
        return image * float(random.uniform(0.9, 1.1)) + float(np.random.normal()) * 0.01, int(self._y[row])


class Streamed(IterableDataset[Any]):
    """Shuffles as it reads, with the generators of its process; it does not tell how long it is."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self._x, self._y = x, y

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        rows = torch.randperm(len(self._x)).tolist() if worker is None else range(worker.id, len(self._x), 2)
        for row in rows:
            yield torch.from_numpy(self._x[row]) + torch.randn(8, 8, 1) * 0.05, int(self._y[row])


def collated(rows: list[Any]) -> Any:
    """Draws once more."""
    from torch.utils.data import default_collate

    images, labels = default_collate(rows)
    return images + torch.randn(()) * 0.01, labels


def loader(x: np.ndarray, y: np.ndarray, **options: Any) -> Any:
    return DataLoader(Augmented(x, y), batch_size=BATCH, collate_fn=collated, **options)


def weighted(x: np.ndarray, y: np.ndarray) -> Any:
    weights = 1.0 + (y % 3)
    sampler = WeightedRandomSampler(weights.tolist(), len(y), generator=torch.Generator().manual_seed(3))
    return loader(x, y, sampler=sampler, num_workers=2)


def stateful(x: np.ndarray, y: np.ndarray) -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Augmented(x, y), batch_size=BATCH, shuffle=True, num_workers=2)


def streamed(x: np.ndarray, y: np.ndarray, workers: int) -> Any:
    return DataLoader(Streamed(x, y), batch_size=BATCH, num_workers=workers)


def hugging_face(x: np.ndarray, y: np.ndarray) -> Any:
    from datasets import Dataset as Table

    table = Table.from_dict({"image": x[..., 0], "label": y}).with_format("torch")
    return DataLoader(table, batch_size=BATCH, shuffle=True, collate_fn=as_pair)


def as_pair(rows: list[dict[str, Any]]) -> Any:
    images = torch.stack([row["image"] for row in rows])[..., None]
    return images.float() + torch.randn(()) * 0.01, torch.stack([row["label"] for row in rows])


def grain_map(x: np.ndarray, y: np.ndarray) -> Any:
    import grain

    rows = grain.MapDataset.source(list(zip(x, y, strict=True))).seed(3).shuffle()
    return rows.random_map(jittered).batch(BATCH)


def grain_stream(x: np.ndarray, y: np.ndarray) -> Any:
    import grain

    rows = grain.MapDataset.source(list(zip(x, y, strict=True))).seed(3).shuffle().repeat()
    return rows.to_iter_dataset().random_map(jittered).batch(BATCH)


def grain_loader(x: np.ndarray, y: np.ndarray) -> Any:
    import grain.python as grain

    return grain.DataLoader(
        data_source=list(zip(x, y, strict=True)),
        sampler=grain.IndexSampler(len(x), shuffle=True, seed=3, num_epochs=None),
        operations=[grain.Batch(BATCH)],
        worker_count=0,
    )


def jittered(row: Any, draw: np.random.Generator) -> Any:
    image, label = row
    return (image + draw.normal(size=image.shape) * 0.05).astype("float32"), label
