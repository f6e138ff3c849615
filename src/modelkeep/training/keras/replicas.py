"""Training on several replicas of ``tf.distribute``, the devices of one process: who gets which rows of a batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras.src import tree

from modelkeep.errors import UsageError
from modelkeep.frameworks import keras as keras_door
from modelkeep.frameworks.keras_arrays import read, value_of
from modelkeep.state import differences

Strategy = Any
"""A ``tf.distribute.Strategy``."""


def strategy_of(model: keras.Model) -> Strategy | None:
    """The strategy under which Keras trains ``model``; None where there is none, as on the other backends.

    Raises:
        UsageError: it is another than MirroredStrategy (of several processes, of TPUs), which was not tried; or the
            model was compiled with ``steps_per_execution``, with which Keras 3.15 does not train on replicas.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    if model._distribute_strategy is None and not tf.distribute.has_strategy():
        return None
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MirroredStrategy | tf.distribute.OneDeviceStrategy):
        raise UsageError(
            f"the model was built for {type(strategy).__name__}, of whose replicas no checkpoint has been tried; use "
            "tf.distribute.MirroredStrategy, whose replicas are the devices of one process"
        )
    if strategy.num_replicas_in_sync > 1 and getattr(model, "steps_per_execution", 1) > 1:
        raise UsageError(
            "Keras does not train on several replicas with steps_per_execution above 1 (TensorFlow misses a value of "
            "its graph); leave it out of compile"
        )
    return strategy


def distributed(batches: Any) -> Any:
    """``batches`` as a dataset that is distributed already, which Keras only iterates over."""
    import tensorflow as tf

    class Distributed(tf.distribute.DistributedDataset):
        def __iter__(self) -> Iterator[Any]:
            return iter(batches)

    return Distributed()


@contextmanager
def dealing(model: keras.Model, strategy: Strategy | None) -> Iterator[None]:
    """Meanwhile the steps of ``model`` deal the rows of each batch out to the replicas, evenly and in order.

    Which rows a replica gets depends on the batch alone, so that a resume deals as before. (Keras gives the first
    replica all of a last, smaller batch where it is enough for it, so that this batch weighs less.)
    """
    if strategy is None:
        yield
        return
    names = ("train_step", "test_step")
    before = {name: vars(model)[name] for name in names if name in vars(model)}
    try:
        for name in names:
            setattr(model, name, _dealt(getattr(model, name), strategy.num_replicas_in_sync))
        model.train_function = model.test_function = None
        yield
    finally:
        for name in names:
            delattr(model, name)
        for name, step in before.items():
            setattr(model, name, step)
        model.train_function = model.test_function = None


def findings_in_replicas(model: keras.Model) -> list[str]:
    """Name the weights that differ from replica to replica, of which a checkpoint holds those of the first only."""
    strategy = strategy_of(model)
    if strategy is None:
        return []
    parts = keras_door.variables_of(model)
    kept = {path[:-1] for path in parts.get("replicas") or {}}
    found = []
    for part in ("model", "optimizer"):
        for path, variable in (parts[part] or {}).items():
            values = strategy.experimental_local_results(value_of(variable))
            if (part, *path) not in kept and _differ([read(value, copy=False) for value in values]):
                found.append(
                    f"{'/'.join((part, *map(str, path)))} has another value on each replica, so its replicas drift "
                    "apart; update it with the gradients that the optimizer has summed, or make it not trainable"
                )
    return found


def _differ(values: Sequence[Any]) -> bool:
    return any(differences(values[0], other) for other in values[1:])


def _dealt(step: Callable[[Any], Any], replicas: int) -> Callable[[Any], Any]:
    import tensorflow as tf

    def step_on_part(batch: Any) -> Any:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        return step(tree.map_structure(lambda leaf: _part(leaf, number, replicas), batch, none_is_leaf=False))

    return step_on_part


def _part(leaf: Any, number: Any, replicas: int) -> Any:
    """The rows of replica ``number``; so many for sure, where XLA must know, if each replica has as many."""
    import tensorflow as tf

    rows = leaf.shape[0]
    if rows is None or rows % replicas:
        rows = leaf.nrows(tf.int32) if isinstance(leaf, tf.RaggedTensor) else tf.shape(leaf, out_type=tf.int32)[0]
        start = rows * number // replicas
        count = rows * (number + 1) // replicas - start
    else:
        count = rows // replicas
        start = count * number
    if isinstance(leaf, tf.SparseTensor):
        first, size = (tf.reshape(tf.cast(value, tf.int64), [1]) for value in (start, count))
        rest = tf.shape(leaf, out_type=tf.int64)[1:]
        return tf.sparse.slice(leaf, tf.concat([first, tf.zeros_like(rest)], 0), tf.concat([size, rest], 0))
    part = leaf[start : start + count]
    if isinstance(count, int) and not isinstance(leaf, tf.RaggedTensor):
        part = tf.ensure_shape(part, [count, *leaf.shape[1:]])
    return part
