"""A torch ``DataLoader`` as a source for Keras; `modelkeep.training.torch_batches` gives its batches by number."""

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from keras.src import tree
from torch.utils.data import DataLoader

from modelkeep.errors import UsageError
from modelkeep.training.keras.data import Batch, Order, Stateless, for_backend, sample_of, standardized
from modelkeep.training.torch_batches import Passes


class LoaderSource(Stateless):
    """A ``DataLoader``, also torchdata's. Of an ``IterableDataset`` the batches before a position are read and dropped.

    Raises:
        UsageError: no length, and no ``steps``.
    """

    def __init__(
        self, loader: "DataLoader[Any]", order: Order, *, steps: int | None, class_weight: dict[int, float] | None
    ) -> None:
        self._loader, self._class_weight = loader, class_weight
        self._passes = Passes(loader, order.seed)
        self.steps: int | None = steps or self._passes.length
        self._stream: Iterator[Batch] = iter(())
        self._streamed = -1
        """Batches of the stream that were read: the next epoch goes on with it."""
        self._samples: list[Batch] | None = None

    def state(self, at: int) -> dict[str, Any]:
        return {"lengths": {str(number): length for number, length in self._passes.lengths.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        self._passes.lengths |= {int(number): length for number, length in state.get("lengths", {}).items()}

    def sample(self) -> Batch:
        return self._seen()[0]

    def description(self) -> dict[str, Any]:
        sampler = getattr(self._loader, "sampler", None)
        return {
            "kind": "DataLoader",
            "dataset": type(self._loader.dataset).__name__,
            "batches": self._passes.length,
            "steps": self.steps,
            "sampler": type(sampler).__name__,
            **sample_of(self.sample()),
        }

    def open(self, epoch: int, batch: int) -> Iterator[Batch]:
        if self.steps is None:
            return for_backend(lambda: self._pass(epoch, batch, None), self._seen(), ahead=False)
        start, count = epoch * self.steps + batch, self.steps - batch
        read = self._streamed_on if self._passes.is_stream else self._batches
        return for_backend(lambda: read(start, count), self._seen(), ahead=False)

    def problems(self) -> Iterator[str]:
        """What would make a batch another one in a new process."""
        return self._passes.problems()

    def _seen(self) -> list[Batch]:
        if self._samples is None:
            self._samples = list(self._pass(0, 0, 2))
        if not self._samples:
            raise UsageError("the DataLoader gives no batch")
        return self._samples

    def _streamed_on(self, start: int, count: int) -> Iterator[Batch]:
        """The same of an iterable, which is opened once for all epochs that follow one another."""
        if self._streamed != start:
            self._stream, self._streamed = self._batches(start, sys.maxsize), start
        for batch in islice(self._stream, count):
            self._streamed += 1
            yield batch

    def _batches(self, start: int, count: int) -> Iterator[Batch]:
        """``count`` batches from number ``start`` on, pass after pass; how long one is may show only at its end."""
        number, index = (0, start) if self._passes.length is None else divmod(start, self._passes.length)
        while count > 0:
            if index >= self._passes.lengths.get(number, index + 1):
                index, number = index - self._passes.lengths[number], number + 1
                continue
            for batch in self._pass(number, index, count):
                yield batch
                index, count = index + 1, count - 1
            if count > 0 and not self._passes.lengths.get(number):
                raise UsageError(f"pass {number} of the DataLoader gives no batch, and more are wanted")

    def _pass(self, number: int, index: int, count: int | None) -> Iterator[Batch]:
        """Batches ``index`` and on of pass ``number``, ``count`` of them or all."""
        for batch in self._passes.batches(number, index, count):
            yield _numpy(standardized(batch, self._class_weight, "this DataLoader"))


def _numpy(batch: Batch) -> Batch:
    """Tensors as numpy; those on the torch backend are converted back without a copy."""
    return tree.map_structure(
        lambda leaf: leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf, batch, none_is_leaf=False
    )
