"""The batches of a torch ``DataLoader`` by number, each drawn from randomness of its own.

What a loader draws (the order of a sampler, augmentations in the dataset and in ``collate_fn``) comes from the global
generators, of which workers have copies of their own. Here each pass and each batch draws from generators that are
seeded by the run's seed and the number of the pass or batch, wherever it is loaded: so any batch can be loaded first,
and it is the same with any number of workers.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info


class Passes:
    """The passes over a ``DataLoader``, also torchdata's, as they follow from a seed.

    Of an ``IterableDataset`` the batches before a position are read and dropped. ``length``: batches in a pass, None
    where the loader does not tell; ``lengths``: of passes whose end was seen.
    """

    def __init__(self, loader: "DataLoader[Any]", seed: int) -> None:
        self._loader, self._run_seed = loader, seed
        try:
            self.length: int | None = len(loader)
        except TypeError:
            self.length = None
        self.is_stream = isinstance(loader.dataset, IterableDataset)
        self.lengths: dict[int, int] = {}

    def batches(self, number: int, index: int, count: int | None) -> Iterator[Any]:
        """Batches ``index`` and on of pass ``number``, ``count`` of them or all, as the loader collates them."""
        return self._iterated(number, index, count) if self.is_stream else self._mapped(number, index, count)

    def problems(self) -> Iterator[str]:
        """What would make a batch another one in a new process."""
        if not _same(list(self.batches(0, 0, 2)), list(self.batches(0, 0, 2))):
            yield (
                f"the first batches of a DataLoader of {type(self._loader.dataset).__name__} differ when they are read "
                "twice from the same seeds; draw from torch's, numpy's or Python's global generators, which are seeded "
                "for each batch, or from what the index alone decides"
            )
        if not self.is_stream and self._indices(0, 0, _LOOKED_AT) != self._indices(0, 0, _LOOKED_AT):
            sampler = type(self._loader.batch_sampler or self._loader.sampler).__name__
            yield (
                f"{sampler} gives another order when it is asked twice from the same seed; draw from torch's, numpy's "
                "or Python's global generators, or from a torch.Generator in its attribute `generator`"
            )

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
            self.lengths[number] = len(found)
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
                self.lengths[number] = at
                return
            at += 1
            if at > index:
                yield batch

    def _seed(self, number: int) -> int:
        return _seed_of(self._run_seed, number)


Place = Callable[[], tuple[int, int]]
"""The epoch and the batch of it that is next."""


class Batches:
    """A ``DataLoader`` whose passes begin where ``place`` says; for all else it is the loader."""

    def __init__(self, loader: "DataLoader[Any]", seed: int, place: Place) -> None:
        self._loader, self._place = loader, place
        self.passes = Passes(loader, seed)

    def __iter__(self) -> Iterator[Any]:
        epoch, batch = self._place()
        if self.passes.is_stream or self.passes.length is not None:
            yield from self.passes.batches(epoch, batch, None)
            return
        given = _AT_A_TIME  # a sampler that tells no length may have no end, and what it gives is held
        while given == _AT_A_TIME:
            given = 0
            for one in self.passes.batches(epoch, batch, _AT_A_TIME):
                yield one
                given += 1
            batch += given

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # of a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self._loader, name)


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

_AT_A_TIME = 10_000
_LOOKED_AT = 1000
"""Batches whose order is compared."""


def _same(one: Any, other: Any) -> bool:
    """Whether two structures of tensors and values are equal, NaN to NaN."""
    first, second = (tree_flatten(batches)[0] for batches in (one, other))
    return len(first) == len(second) and all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind in "fc")
        for a, b in zip(first, second, strict=True)
    )


def _drawing_from(seed: int) -> Any:
    return _Generators(seed).in_use()


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _only(batches: list[Any]) -> Any:
    """Our loader's batches are lists of one that is collated already."""
    return batches[0]
