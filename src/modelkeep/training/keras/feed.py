"""The seam to ``Model.fit``: a Keras data adapter that gives it a source, one epoch at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from modelkeep.training.keras.data import Batch, Source
from modelkeep.training.keras.replicas import Strategy, distributed


class Feed(DataAdapter):
    """Feeds ``Model.fit`` from the position that the loop has set.

    ``Model.fit`` asks for an iterator at each epoch's start, and for one more at its end, which it drops: only
    the first request of an epoch opens the source.
    """

    def __init__(self, source: Source, strategy: Strategy | None = None) -> None:
        self.source = source
        self.strategy = strategy
        self.skip = 0
        self.is_behind = False
        """All batches of this epoch are behind; Keras, which must have one, gets one without anything in it."""
        self.on_open: Callable[[], None] | None = None
        self._epoch: int | None = None
        self._opened = False

    def begin(self, epoch: int) -> None:
        """The loop is at the start of ``epoch``; its first ``skip`` batches are behind."""
        self._epoch = epoch
        self._opened = False

    def __iter__(self) -> Iterator[Batch]:
        if self._epoch is None:
            return iter([self.source.sample()])
        if self._opened:
            return iter(())
        self._opened = True
        batches = self.source.open(self._epoch, self.skip)
        if self.on_open is not None:
            self.on_open()
        if self.is_behind:
            return iter([()])
        is_open = self.source.steps is None and keras.backend.backend() == "tensorflow"
        return UntilTheEnd(batches) if is_open else batches

    def get_tf_dataset(self) -> Any:
        """Keras' TensorFlow trainer only iterates over what it gets, so it gets the feed itself."""
        return self if self.strategy is None else distributed(self)

    def get_jax_iterator(self) -> Iterator[Batch]:
        return iter(self)

    def get_torch_dataloader(self) -> Iterator[Batch]:
        return iter(self)

    def get_numpy_iterator(self) -> Iterator[Batch]:
        return iter(self)

    @property
    def num_batches(self) -> int | None:
        if self.is_behind:
            return 1
        return None if self.source.steps is None else self.source.steps - self.skip

    @property
    def batch_size(self) -> None:
        return None

    @property
    def has_partial_batch(self) -> None:
        return None

    @property
    def partial_batch_size(self) -> None:
        return None

    def on_epoch_begin(self) -> None:
        if self._epoch is not None:
            self.source.epoch_began()

    def on_epoch_end(self) -> None:
        """Keras also calls this before the first epoch, where nothing has ended."""
        if self._epoch is not None:
            self._epoch = None
            if not self.is_behind:  # else the source was told before it was saved
                self.source.epoch_ended()


class UntilTheEnd:
    """Batches of unknown number for Keras' TensorFlow trainer, whose step never begins without a batch.

    Given an iterator of TensorFlow's, Keras finds its end by a step that fails; by then parts of that step may have
    run, such as the count of the optimizer and the seeds of random layers, on one replica or on all.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches

    def __next__(self) -> Batch:
        return next(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one execution of Keras' step function, which takes as many as it wants."""
        import tensorflow as tf

        first = next(self._batches, None)
        if first is None:
            raise tf.errors.OutOfRangeError(None, None, "the end of the data")
        yield first
        yield from self._batches
