"""A torch ``DataLoader`` as a source: its batches by number, each drawn from randomness of its own.

What a loader draws (the order of a sampler, augmentations in the dataset and in ``collate_fn``) comes from the global
generators, of which workers have copies of their own. Here each pass and each batch draws from generators that are
seeded by the run's seed and the number of the pass or batch, wherever it is loaded: so any batch can be loaded first,
and it is the same with any number of workers.
"""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from keras.src import tree
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from modelkeep.errors import UsageError
from modelkeep.training.keras.data import Batch, Order, Stateless, for_backend, same_batches, sample_of, standardized


class LoaderSource(Stateless):
    """A ``DataLoader``, also torchdata's. Of an ``IterableDataset`` the batches before a position are read and dropped.

    Raises:
        UsageError: no length, and no ``steps``.
    """

    def __init__(
        self, loader: "DataLoader[Any]", order: Order, *, steps: int | None, class_weight: dict[int, float] | None
    ) -> None:
        self._loader, self._order, self._class_weight = loader, order, class_weight
        try:
            self._length: int | None = len(loader)
        except TypeError:
            self._length = None
        self.steps: int | None = steps or self._length
        self._iterable = isinstance(loader.dataset, IterableDataset)
        self._stream: Iterator[Batch] = iter(())
        self._streamed = -1
        """Batches of the stream that were read: the next epoch goes on with it."""
        self._lengths: dict[int, int] = {}
        """Of passes whose end was seen."""
        self._samples: list[Batch] | None = None

    def state(self, at: int) -> dict[str, Any]:
        return {"lengths": {str(number): length for number, length in self._lengths.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        self._lengths |= {int(number): length for number, length in state.get("lengths", {}).items()}

    def sample(self) -> Batch:
        return self._seen()[0]

    def description(self) -> dict[str, Any]:
        sampler = getattr(self._loader, "sampler", None)
        return {
            "kind": "DataLoader",
            "dataset": type(self._loader.dataset).__name__,
            "batches": self._length,
            "steps": self.steps,
            "sampler": type(sampler).__name__,
            **sample_of(self.sample()),
        }

    def open(self, epoch: int, batch: int) -> Iterator[Batch]:
        if self.steps is None:
            return for_backend(lambda: self._pass(epoch, batch, None), self._seen(), ahead=False)
        start, count = epoch * self.steps + batch, self.steps - batch
        read = self._streamed_on if self._iterable else self._batches
        return for_backend(lambda: read(start, count), self._seen(), ahead=False)

    def problems(self) -> Iterator[str]:
        """What would make a batch another one in a new process."""
        if not same_batches(list(self._pass(0, 0, 2)), list(self._pass(0, 0, 2))):
            yield (
                f"the first batches of a DataLoader of {type(self._loader.dataset).__name__} differ when they are read "
                "twice from the same seeds; draw from torch's, numpy's or Python's global generators, which are seeded "
                "for each batch, or from what the index alone decides"
            )
        if self._iterable:
            return
        if self._indices(0, 0, _LOOKED_AT) != self._indices(0, 0, _LOOKED_AT):
            sampler = type(self._loader.batch_sampler or self._loader.sampler).__name__
            yield (
                f"{sampler} gives another order when it is asked twice from the same seed; draw from torch's, numpy's "
                "or Python's global generators, or from a torch.Generator in its attribute `generator`"
            )

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
        number, index = (0, start) if self._length is None else divmod(start, self._length)
        while count > 0:
            if index >= self._lengths.get(number, index + 1):
                index, number = index - self._lengths[number], number + 1
                continue
            for batch in self._pass(number, index, count):
                yield batch
                index, count = index + 1, count - 1
            if count > 0 and not self._lengths.get(number):
                raise UsageError(f"pass {number} of the DataLoader gives no batch, and more are wanted")

    def _pass(self, number: int, index: int, count: int | None) -> Iterator[Batch]:
        """Batches ``index`` and on of pass ``number``, ``count`` of them or all."""
        for batch in self._iterated(number, index, count) if self._iterable else self._mapped(number, index, count):
            yield _numpy(standardized(batch, self._class_weight, "this DataLoader"))

    def _mapped(self, number: int, index: int, count: int | None) -> Iterator[Any]:
        rows = self._indices(number, index, count)
        seed = self._seed(number)
        loader = self._loader
        yield from DataLoader(
            _Seeded(loader.dataset, loader.collate_fn, seed, batched=loader.batch_sampler is not None),
            batch_sampler=[[(index + at, one)] for at, one in enumerate(rows)],
            collate_fn=_only,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
            generator=torch.Generator().manual_seed(seed),
        )

    def _indices(self, number: int, index: int, count: int | None) -> list[Any]:
        """What the sampler gives for those batches of a pass."""
        loader = self._loader
        seed = self._seed(number)
        samplers: list[Any] = [loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]
        for sampler in samplers:
            if isinstance(getattr(sampler, "generator", None), torch.Generator):
                sampler.generator.manual_seed(seed)
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(number)
        with _drawing_from(seed):
            chosen = iter(loader.sampler if loader.batch_sampler is None else loader.batch_sampler)
            found = list(islice(chosen, None if count is None else index + count))
        if count is None or len(found) < index + count:
            self._lengths[number] = len(found)
        return found[index:]

    def _iterated(self, number: int, index: int, count: int | None) -> Iterator[Any]:
        """A pass of an iterable from its beginning, which draws from generators of its own at each step."""
        seed = self._seed(number)
        if self._loader.generator is not None:
            self._loader.generator.manual_seed(seed)
        own = _Generators(seed)
        with own.in_use():
            batches = iter(self._loader)
        end = None if count is None else index + count
        at = 0
        while end is None or at < end:
            with own.in_use():
                batch = next(batches, _END)
            if batch is _END:
                self._lengths[number] = at
                return
            at += 1
            if at > index:
                yield batch

    def _seed(self, number: int) -> int:
        return _seed_of(self._order.seed, number)


class _Seeded(Dataset[Any]):
    """Batches of a dataset by number, collated, each from generators seeded for it."""

    def __init__(self, dataset: Any, collate: Any, seed: int, *, batched: bool) -> None:
        self._dataset, self._collate, self._seed, self._batched = dataset, collate, seed, batched

    def __getitems__(self, asked: list[tuple[int, Any]]) -> list[Any]:
        return [self._batch(number, rows) for number, rows in asked]

    def __getitem__(self, asked: tuple[int, Any]) -> Any:
        return self._batch(*asked)

    def _batch(self, number: int, rows: Any) -> Any:
        seed = _seed_of(self._seed, number)
        if get_worker_info() is not None:  # a process of its own, where nobody else draws
            _Generators.seed(seed)
            return self._read(rows)
        with _drawing_from(seed):
            return self._read(rows)

    def _read(self, rows: Any) -> Any:
        if not self._batched:
            return self._collate(self._dataset[rows])
        if hasattr(self._dataset, "__getitems__"):
            return self._collate(self._dataset.__getitems__(rows))
        return self._collate([self._dataset[row] for row in rows])


class _Generators:
    """The global generators of Python, numpy and torch as somebody else has them."""

    def __init__(self, seed: int) -> None:
        before = self._captured()
        self.seed(seed)
        self._state = self._captured()
        self._put(before)

    @staticmethod
    def seed(seed: int) -> None:
        """Seed the global generators."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)  # that of the processor alone: a device's is the training's

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """They are the global ones inside; those of before are put back."""
        before = self._captured()
        self._put(self._state)
        try:
            yield
        finally:
            self._state = self._captured()
            self._put(before)

    @staticmethod
    def _captured() -> tuple[Any, Any, Any]:
        return random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()

    @staticmethod
    def _put(state: tuple[Any, Any, Any]) -> None:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


_END = object()

_LOOKED_AT = 1000
"""Batches whose order is compared."""


def _drawing_from(seed: int) -> Any:
    return _Generators(seed).in_use()


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _only(batches: list[Any]) -> Any:
    """Our loader's batches are lists of one that is collated already."""
    return batches[0]


def _numpy(batch: Batch) -> Batch:
    """Tensors as numpy; those on the torch backend are converted back without a copy."""
    return tree.map_structure(
        lambda leaf: leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf, batch, none_is_leaf=False
    )
