"""A Grain dataset or loader as a source: a ``MapDataset`` by index, others by the state of their iterators."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import grain

from modelkeep.errors import UsageError
from modelkeep.training.keras.data import Batch, for_backend, same_batches, sample_of, standardized

_ENDLESS = 10**15
"""More batches than any training has: the length that Grain gives to what repeats."""

_STATES = 64
"""Positions whose iterator states are remembered: what is read may be so far ahead of what is trained on."""


class GrainSource:
    """``grain.MapDataset``, ``grain.IterDataset`` or ``grain.DataLoader``, batched.

    As in Keras an epoch is one pass from the beginning; with ``steps_per_epoch`` one pass goes on through all epochs.
    """

    def __init__(self, dataset: Any, *, steps: int | None, class_weight: dict[int, float] | None) -> None:
        self._dataset, self._class_weight = dataset, class_weight
        self._by_index = isinstance(dataset, grain.MapDataset)
        self._streams = steps is not None
        length = len(dataset) if self._by_index else None
        if length is not None and length > _ENDLESS and steps is None:
            raise UsageError("this Grain dataset repeats for ever, so an epoch would never end; pass steps_per_epoch=")
        self.steps: int | None = steps or length
        self._samples: list[Batch] | None = None
        self._recent: deque[tuple[int, Any]] = deque(maxlen=_STATES)
        """Numbers of batches that were read, and the state of the iterator behind each."""
        self._start = 0
        self._saved: tuple[int, Any] | None = None

    def sample(self) -> Batch:
        return self._seen()[0]

    def description(self) -> dict[str, Any]:
        return {"kind": f"grain {type(self._dataset).__name__}", "steps": self.steps, **sample_of(self.sample())}

    def open(self, epoch: int, batch: int) -> Iterator[Batch]:
        self._start = epoch * (self.steps or 0) if self._streams else 0
        start = self._start + batch
        stop = None if self.steps is None else self._start + self.steps
        return for_backend(lambda: self._batches(start, stop), self._seen())

    def state(self, at: int) -> dict[str, Any]:
        """The state of the iterator ``at`` batches into the epoch; nothing where it is not known any more."""
        wanted = self._start + at
        found = [state for number, state in list(self._recent) if number == wanted]
        return {"at": wanted, "iterator": found[-1]} if found else {}

    def restore(self, state: dict[str, Any]) -> None:
        self._saved = (state["at"], state["iterator"]) if state else None

    def epoch_began(self) -> None:
        pass

    def epoch_ended(self) -> None:
        pass

    def problems(self) -> Iterator[str]:
        """What would make a batch another one in a new process."""
        if not same_batches(*(list(self._read(0, min(2, self.steps or 2))) for _ in range(2))):
            yield (
                f"the first batches of {type(self._dataset).__name__} differ when they are read twice: give it a seed, "
                ".seed(0) before .shuffle() and random transformations, or seed= of the sampler"
            )

    def _seen(self) -> list[Batch]:
        if self._samples is None:
            self._samples = list(self._read(0, min(2, self.steps or 2)))
        if not self._samples:
            raise UsageError("the Grain dataset gives no batch")
        return self._samples

    def _batches(self, start: int, stop: int | None) -> Iterator[Batch]:
        saved, self._saved = self._saved, None  # only now: it is put back when the epoch is open
        known = dict([*self._recent, *([saved] if saved is not None else [])])
        yield from self._read(start, stop, known.get(start), note=True)

    def _read(self, start: int, stop: int | None, state: Any = None, *, note: bool = False) -> Iterator[Batch]:
        """Batches from ``start`` on, by the iterator's ``state`` there or past those before; noted are later states."""
        if self._by_index:
            for number in range(start, len(self._dataset) if stop is None else stop):
                yield standardized(self._dataset[number], self._class_weight, "this dataset")
            return
        batches: Any = iter(self._dataset)
        if state is not None:
            batches.set_state(state)
        else:
            for _ in islice(batches, start):
                pass
        for number, batch in enumerate(islice(batches, None if stop is None else stop - start), start + 1):
            if note:
                self._recent.append((number, batches.get_state()))
            yield standardized(batch, self._class_weight, "this dataset")
