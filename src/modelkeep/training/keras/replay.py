"""A generator that gives the same batches in each process: a resume opens it anew and reads past what is behind."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from modelkeep.errors import UsageError
from modelkeep.training.keras.data import Batch, Stateless, for_backend, same_batches, sample_of, standardized
from modelkeep.training.randomness import global_draws


@dataclass(frozen=True, slots=True)
class Replay:
    """Declares that a function gives the same batches whenever it is called; ``x`` or ``validation_data`` of ``fit``.

    A generator opens only at its beginning, so that ``fit`` refuses one. This one is called anew by each process, and
    batches that are behind are read and dropped: as slow as reading them. The epoch must be told with
    ``steps_per_epoch`` (``validation_steps``); one generator goes on through all epochs, as in Keras.

    Args:
        batches: returns an iterator of batches as Keras takes them, ``(x, y)`` or ``(x, y, sample_weight)``. It draws
            from random generators of its own alone, such as ``numpy.random.default_rng(0)`` made inside it. That is
            looked at: the first batches are read twice.

    >>> import numpy as np
    >>> def batches():
    ...     draws = np.random.default_rng(0)
    ...     while True:
    ...         x = draws.random((8, 4), np.float32)
    ...         yield x, x.sum(axis=1)
    >>> data = Replay(batches)  # mk.keras.fit(model, data, run=run, steps_per_epoch=100)
    """

    batches: Callable[[], Iterable[Batch]]


class ReplaySource(Stateless):
    """The batches of a `Replay`, by number."""

    def __init__(self, replay: Replay, *, steps: int | None, class_weight: dict[int, float] | None) -> None:
        if steps is None:
            raise UsageError("a generator does not tell where an epoch ends; pass steps_per_epoch= (validation_steps=)")
        self.steps: int | None = steps
        self._steps = steps
        self._replay, self._class_weight = replay, class_weight
        self._samples: list[Batch] | None = None
        self._open: Iterator[Batch] = iter(())
        self._taken = -1
        """Batches that ``_open`` has given."""

    def sample(self) -> Batch:
        return self._seen()[0]

    def description(self) -> dict[str, Any]:
        return {"kind": "generator", "steps": self.steps, **sample_of(self.sample())}

    def open(self, epoch: int, batch: int) -> Iterator[Batch]:
        start, stop = epoch * self._steps + batch, (epoch + 1) * self._steps
        if self._taken != start:
            self._open = self._read()
            skipped = sum(1 for _ in islice(self._open, start))
            self._taken = start
            self._must_have(skipped, start)
        return for_backend(lambda: self._batches(stop), self._seen(), ahead=False)

    def problems(self) -> Iterator[str]:
        """What would make a batch another one in a new process."""
        before = global_draws()
        same = same_batches(*(list(islice(self._read(), min(2, self._steps))) for _ in range(2)))
        if not same or global_draws() != before:
            found = "differ when it is called twice" if not same else "draw from a global generator"
            yield (
                f"the first batches of the generator in modelkeep.keras.Replay {found}; make its random generators "
                "inside it, numpy.random.default_rng(0)"
            )

    def _batches(self, stop: int) -> Iterator[Batch]:
        for batch in islice(self._open, stop - self._taken):
            self._taken += 1
            yield batch
        self._must_have(self._taken, stop)

    def _read(self) -> Iterator[Batch]:
        for batch in self._replay.batches():
            yield standardized(batch, self._class_weight, "this generator")

    def _seen(self) -> list[Batch]:
        if self._samples is None:
            self._samples = list(islice(self._read(), min(2, self._steps)))
            self._must_have(len(self._samples), 1)
        return self._samples

    def _must_have(self, found: int, wanted: int) -> None:
        if found < wanted:
            raise UsageError(
                f"the generator has ended after {found} batches, and the training wants more; let it go on for ever, "
                "while True"
            )
