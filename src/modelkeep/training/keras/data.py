"""Where training is in its data: each kind of input as a stream of batches that opens at any position.

A source numbers its batches through the whole training: batch ``g`` is batch ``g % length`` of pass
``g // length``. The order of a pass depends on the run's seed and the number of the pass alone, never on how far
some loader thread has run ahead, so that a new process opens the stream where the old one was killed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import keras
import numpy as np
from keras.src import tree
from keras.src.trainers.data_adapters import (
    array_data_adapter,
    array_slicing,
    data_adapter_utils,
    is_tf_dataset,
)
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter
from keras.utils import PyDataset

from modelkeep.errors import UsageError
from modelkeep.snapshot.pieces import digest
from modelkeep.training.keras import dataset_state
from modelkeep.training.keras.loader import load_in_order

Batch = Any
"""A structure of arrays or tensors as Keras takes it: ``x``, ``(x, y)`` or ``(x, y, sample_weight)``."""


class Source(Protocol):
    """A stream of batches that opens at any position, for the backend that Keras runs on."""

    steps: int | None
    """Batches in one epoch; ``None`` when only its end will tell."""

    def sample(self) -> Batch:
        """One batch, for building the model; it does not move the position."""

    def open(self, epoch: int, batch: int) -> Iterator[Batch]:
        """Batches ``batch`` to the end of epoch ``epoch``, both counted from 0."""

    def description(self) -> dict[str, Any]:
        """What decides its batches, as short JSON: a resume compares it."""

    def state(self, at: int) -> dict[str, Any]:
        """What the source holds besides the position, as a state tree; ``at`` batches of the epoch are behind."""

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` returned."""

    def epoch_began(self) -> None: ...

    def epoch_ended(self) -> None: ...


class Stateless:
    """A source that is wholly described by its position."""

    def state(self, at: int) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass

    def epoch_began(self) -> None:
        pass

    def epoch_ended(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Order:
    """The order of the elements of each pass, from the run's seed.

    A pass is a permutation by ``numpy.random.Philox`` keyed by ``(seed, pass)``: O(1) to reach any pass.
    """

    seed: int
    shuffle: bool

    def of_pass(self, number: int, elements: int) -> np.ndarray:
        """Return the indices ``0 .. elements`` of pass ``number``, shape ``(elements,)``, int64."""
        if not self.shuffle:
            return np.arange(elements)
        return self.generator(number).permutation(elements)

    def generator(self, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(seed=np.random.SeedSequence((self.seed, number))))


class ArraySource(Stateless):
    """NumPy arrays, tensors and what else Keras slices by rows (pandas, sparse)."""

    def __init__(
        self,
        inputs: array_data_adapter.ArrayDataAdapter,
        order: Order,
        *,
        steps: int | None = None,
        within_batches: bool = False,
    ) -> None:
        self._inputs = inputs._inputs
        self._rows: int = inputs._num_samples
        self._batch_size: int = inputs._batch_size
        self._length: int = inputs.num_batches
        self._order = order
        self._within_batches = within_batches
        self.steps: int | None = steps or self._length
        self._batches = range(0)
        self._converted: Any = None
        self._pipeline: Any = None

    def sample(self) -> Batch:
        return self._take(np.arange(min(self._batch_size, self._rows)), self._sliceable())

    def description(self) -> dict[str, Any]:
        shuffle = "within batches" if self._within_batches and self._order.shuffle else self._order.shuffle
        return {
            "kind": "arrays",
            "rows": self._rows,
            "batch_size": self._batch_size,
            "steps": self.steps,
            "shuffle": shuffle,
            **sample_of(self.sample()),
        }

    def open(self, epoch: int, batch: int) -> Iterator[Batch]:
        assert self.steps is not None
        self._batches = range(epoch * self.steps + batch, (epoch + 1) * self.steps)
        if keras.backend.backend() != "tensorflow":
            return self._slices(self._batches)
        if self._pipeline is None:
            self._pipeline = self._tensorflow_pipeline()
        return iter(self._pipeline)

    def _slices(self, batches: range) -> Iterator[Batch]:
        inputs = self._sliceable()
        for rows in self._rows_of(batches):
            yield self._take(rows, inputs)

    def _rows_of(self, batches: range) -> Iterator[np.ndarray]:
        """The row numbers of each batch; a pass is permuted once, when its first batch is due."""
        drawn, rows = -1, np.empty(0, np.int64)
        for batch in batches:
            number, index = divmod(batch, self._length)
            if number != drawn:
                rows, drawn = self._rows_of_pass(number), number
            yield rows[index * self._batch_size : (index + 1) * self._batch_size]

    def _rows_of_pass(self, number: int) -> np.ndarray:
        if not self._within_batches:
            return self._order.of_pass(number, self._rows)
        generator = self._order.generator(number)
        starts = range(0, self._rows, self._batch_size)
        return np.concatenate(
            [start + generator.permutation(min(self._batch_size, self._rows - start)) for start in starts]
        )

    def _sliceable(self) -> Any:
        """Converted once: it may copy. TensorFlow slices in its own pipeline and takes only the sample from here."""
        if self._converted is None:
            target = _TARGET[keras.backend.backend()]
            self._converted = array_slicing.convert_to_sliceable(self._inputs, target_backend=target)
        return self._converted

    def _take(self, rows: np.ndarray, inputs: Any) -> Batch:
        convert = _CONVERSION[keras.backend.backend()]
        return tree.map_structure(lambda one: convert(one, one[rows]), inputs, none_is_leaf=False)

    def _tensorflow_pipeline(self) -> Any:
        """One ``tf.data`` pipeline for all epochs: Python is asked once an epoch, for the order of its rows."""
        import tensorflow as tf

        def rows_of_epoch(_: Any) -> Any:
            rows, ends = tf.numpy_function(self._packed_rows, [], [tf.int64, tf.int64], stateful=True)
            return tf.ensure_shape(rows, [None]), tf.ensure_shape(ends, [None])

        def batches(rows: Any, ends: Any) -> Any:
            starts = tf.concat([tf.zeros([1], tf.int64), ends[:-1]], axis=0)
            bounds = tf.data.Dataset.from_tensor_slices((starts, ends))
            return bounds.map(lambda start, end: rows[start:end])

        def take(rows: Any, inputs: Any) -> Any:
            if self._rows % self._batch_size == 0:
                rows = tf.ensure_shape(rows, [self._batch_size])
            return tree.traverse(lambda one: _gather(one, rows), inputs)

        inputs = array_slicing.convert_to_sliceable(self._inputs, target_backend="tensorflow")
        inputs = tree.lists_to_tuples(inputs)
        rows = tf.data.Dataset.range(1).map(rows_of_epoch).flat_map(batches)
        dataset = tf.data.Dataset.zip((rows, tf.data.Dataset.from_tensors(inputs).repeat()))
        dataset = dataset.map(take, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False
        return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)

    def _packed_rows(self) -> tuple[np.ndarray, np.ndarray]:
        batches = list(self._rows_of(self._batches))
        return np.concatenate([np.empty(0, np.int64), *batches]), np.cumsum(
            [len(rows) for rows in batches], dtype=np.int64
        )


class PyDatasetSource:
    """A ``keras.utils.PyDataset``: its batches by number, in our order, through its own number of workers."""

    def __init__(
        self, dataset: PyDataset, order: Order, *, steps: int | None, class_weight: dict[int, float] | None
    ) -> None:
        self._dataset = dataset
        self._order = order
        self._class_weight = class_weight
        self._length: int | None = dataset.num_batches
        self.steps: int | None = steps or self._length
        self._seen: list[Batch] | None = None

    def sample(self) -> Batch:
        return self._standardize(self._dataset[0])

    def description(self) -> dict[str, Any]:
        shuffle = self._order.shuffle
        return {"kind": type(self._dataset).__name__, "batches": self._length, "steps": self.steps, "shuffle": shuffle}

    def open(self, epoch: int, batch: int) -> Iterator[Batch]:
        if self.steps is None:
            raise UsageError(
                f"{type(self._dataset).__name__} has no length (num_batches is None), so an epoch would never end; "
                "pass steps_per_epoch="
            )
        numbers = self._numbers(epoch * self.steps + batch, self.steps - batch)
        if keras.backend.backend() == "tensorflow" and self._seen is None:
            self._seen = [self._standardize(self._dataset[number]) for number in range(min(2, self._length or 1))]
        return for_backend(lambda: self._load(numbers), self._seen or [])

    def state(self, at: int) -> dict[str, Any]:
        return dataset_state.capture(self._dataset)

    def restore(self, state: dict[str, Any]) -> None:
        dataset_state.restore(self._dataset, state)

    def epoch_began(self) -> None:
        self._dataset.on_epoch_begin()

    def epoch_ended(self) -> None:
        self._dataset.on_epoch_end()

    def _numbers(self, start: int, count: int) -> Sequence[int]:
        if self._length is None:
            return range(start, start + count)
        numbers: list[int] = []
        while len(numbers) < count:
            number, index = divmod(start + len(numbers), self._length)
            numbers += self._order.of_pass(number, self._length)[index : index + count - len(numbers)].tolist()
        return numbers

    def _load(self, numbers: Sequence[int]) -> Iterator[Batch]:
        for batch in load_in_order(self._dataset, numbers):
            yield self._standardize(batch)

    def _standardize(self, batch: Batch) -> Batch:
        return standardized(batch, self._class_weight, "this dataset")


class DatasetSource(Stateless):
    """A ``tf.data.Dataset``: epoch ``n`` is its iterator ``n``, reached by opening the ones before it.

    Where ``steps_per_epoch`` was given one iterator goes on through all epochs, as in Keras.
    """

    def __init__(self, dataset: Any, *, steps: int | None, class_weight: dict[int, float] | None) -> None:
        adapter = TFDatasetAdapter(dataset, class_weight=class_weight)
        self._dataset = adapter.get_tf_dataset()
        self._streams = steps is not None
        if self._streams and adapter.num_batches is not None:
            self._dataset = self._dataset.repeat()
        self.steps: int | None = steps or adapter.num_batches
        self._opened = 0
        self._stream: Any = None
        self._streamed = -1

    def sample(self) -> Batch:
        """Zeros of the batch's own shape where they will do: a real batch fills the buffer of a shuffle first."""
        import tensorflow as tf

        specs = tf.nest.flatten(self._dataset.element_spec)
        if not all(isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None for spec in specs):
            return next(self._next_iterator())
        return tf.nest.map_structure(
            lambda spec: tf.zeros([1 if size is None else size for size in spec.shape], spec.dtype),
            self._dataset.element_spec,
        )

    def description(self) -> dict[str, Any]:
        return {"kind": "tf.data", "steps": self.steps, "elements": str(self._dataset.element_spec)}

    def open(self, epoch: int, batch: int) -> Iterator[Batch]:
        iterator: Iterator[Batch] = self._stream_at(epoch, batch) if self._streams else self._pass_at(epoch, batch)
        if keras.backend.backend() == "tensorflow":
            return iterator
        left = None if self.steps is None else self.steps - batch
        return _converted(islice(iterator, left))

    def _stream_at(self, epoch: int, batch: int) -> Any:
        assert self.steps is not None
        start = epoch * self.steps + batch
        if self._streamed != start:
            self._stream = self._next_iterator()
            _skip(self._stream, start)
        self._streamed = (epoch + 1) * self.steps
        return self._stream

    def _pass_at(self, epoch: int, batch: int) -> Any:
        """The seed of a reshuffling pass is drawn when its iterator is made, so the ones before are made too."""
        while self._opened < epoch:
            self._next_iterator()
        iterator = self._next_iterator()
        _skip(iterator, batch)
        return iterator

    def _next_iterator(self) -> Any:
        self._opened += 1
        return iter(self._dataset)


def source_of(
    data: tuple[Any, Any, Any],
    *,
    batch_size: int | None,
    steps: int | None,
    class_weight: dict[int, float] | None,
    order: Order,
    within_batches: bool = False,
) -> Source | None:
    """Return ``data``, as ``(x, y, sample_weight)``, as a source; None for input that opens only at its beginning."""
    x, y, sample_weight = data
    if array_data_adapter.can_convert_arrays(data):
        adapter = array_data_adapter.ArrayDataAdapter(
            x, y, sample_weight, batch_size=batch_size, steps=steps, shuffle=False, class_weight=class_weight
        )
        return ArraySource(adapter, order, steps=steps, within_batches=within_batches)
    kind = kind_of(x)
    if kind is None:
        return None
    if y is not None or sample_weight is not None:
        raise UsageError(f"a {type(x).__name__} gives its own targets and weights; leave out y and sample_weight")
    if kind == "tf.data":
        return DatasetSource(x, steps=steps, class_weight=class_weight)
    if kind == "DataLoader":
        from modelkeep.training.keras.torch_loader import LoaderSource

        return LoaderSource(x, order, steps=steps, class_weight=class_weight)
    if kind == "replay":
        from modelkeep.training.keras.replay import ReplaySource

        return ReplaySource(x, steps=steps, class_weight=class_weight)
    if kind == "grain":
        from modelkeep.training.keras.grain_loader import GrainSource

        return GrainSource(x, steps=steps, class_weight=class_weight)
    return PyDatasetSource(x, order, steps=steps, class_weight=class_weight)


def kind_of(x: Any) -> str | None:
    """What gives batches and opens at any position, or can be made to; None for what cannot."""
    if is_tf_dataset(x):
        return "tf.data"
    if isinstance(x, PyDataset):
        return "PyDataset"
    homes = {(cls.__module__.partition(".")[0], cls.__name__) for cls in type(x).__mro__}
    if ("torch", "DataLoader") in homes:
        return "DataLoader"
    if ("modelkeep", "Replay") in homes:
        return "replay"
    return "grain" if {name for home, name in homes if home == "grain"} & _GRAIN else None


_GRAIN = {"MapDataset", "IterDataset", "DataLoader"}


def standardized(batch: Batch, class_weight: dict[int, float] | None, what: str) -> Batch:
    """A batch as Keras takes it, weighted by class. Raises UsageError where it has no classes."""
    if isinstance(batch, dict):
        return batch
    batch = tuple(batch) if isinstance(batch, (list, tuple)) else (batch,)
    if class_weight is None:
        return batch
    if len(batch) != 2:
        raise UsageError(f"class_weight needs batches of (x, y), and {what} gives {len(batch)} parts")
    return (*batch, data_adapter_utils.class_weight_to_sample_weights(batch[1], class_weight))


def same_batches(one: Batch, other: Batch) -> bool:
    """Whether two structures of arrays are equal, NaN to NaN."""
    first, second = (tree.flatten(batch) for batch in (one, other))
    return len(first) == len(second) and all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind in "fc")
        for a, b in zip(first, second, strict=True)
    )


def for_backend(load: Callable[[], Iterator[Batch]], seen: Sequence[Batch], *, ahead: bool = True) -> Iterator[Batch]:
    """The batches that ``load`` gives, as the backend's train function takes them; ``seen``: some, for their shapes.

    Unless ``ahead`` they are loaded while the training waits for them: what it draws and they do is not mixed up.
    """
    if keras.backend.backend() != "tensorflow":
        return _converted(load())
    import tensorflow as tf

    spec = data_adapter_utils.get_tensor_spec(list(seen))
    dataset = tf.data.Dataset.from_generator(load, output_signature=spec)
    if ahead:
        return iter(dataset.prefetch(tf.data.AUTOTUNE))
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.inject_prefetch = False
    return iter(dataset.with_options(options))


_TARGET = {"tensorflow": "numpy", "jax": "jax", "torch": "torch"}


def _to_torch(sliceable: Any, rows: Any) -> Any:
    return keras.ops.convert_to_tensor(sliceable.convert_to_torch_compatible(rows))


_CONVERSION: dict[str, Callable[[Any, Any], Any]] = {
    "tensorflow": lambda sliceable, rows: sliceable.convert_to_numpy(rows),
    "jax": lambda sliceable, rows: sliceable.convert_to_jax_compatible(rows),
    "torch": _to_torch,
}


def _gather(one: Any, rows: Any) -> Any:
    import tensorflow as tf

    if isinstance(one, array_slicing.TensorflowSparseWrapper):
        return array_slicing.slice_tensorflow_sparse_wrapper(one, rows)
    if isinstance(one, (list, tuple, dict)):
        return None
    return tf.gather(one, rows, axis=0) if tf.is_tensor(one) else one


def _converted(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches as the backend's train function takes them, converted in the thread that trains."""
    if keras.backend.backend() == "jax":
        yield from data_adapter_utils.get_jax_iterator(batches)
        return
    for batch in batches:
        yield tree.map_structure(keras.ops.convert_to_tensor, batch, none_is_leaf=False)


def _skip(iterator: Any, count: int) -> None:
    for _ in range(count):
        next(iterator)


def sample_of(batch: Batch) -> dict[str, Any]:
    """Dtypes and shapes (of a row) of a batch, and a digest of its values."""
    arrays = [np.asarray(keras.ops.convert_to_numpy(leaf)) for leaf in tree.flatten(batch) if leaf is not None]
    texts = [repr(array.tolist()).encode() if array.dtype == object else array.tobytes() for array in arrays]
    return {
        "parts": [f"{array.dtype} {list(array.shape[1:])}" for array in arrays],
        "first_batch": digest(b"".join(texts))[:12],
    }
