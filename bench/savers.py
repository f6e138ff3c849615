"""The savers of others, each as it is: one class per framework, so that each lives in a child process of its own.

A class has ``ways()``, the names of its savers, and ``save(way, path, durable)``, which changes the state, saves it to
``path`` (a file or a folder) and returns the seconds that the save took.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

from bench import disk, states

Save = Callable[[Path], object]


class Family:
    """Savers that share a framework and a state in memory."""

    def __init__(self, size: int, count: int = 200) -> None:
        self.arrays = states.make(size, count)
        self._savers = self.savers()

    def savers(self) -> dict[str, Save]:
        """Name -> function that saves the state to a path."""
        raise NotImplementedError

    def change(self) -> None:
        """Make the state another one, as training does."""
        states.change(self.arrays)

    def prepare(self, path: Path) -> None:
        """What is there before a save: nothing, for most."""

    def ways(self) -> list[str]:
        """The names of the savers."""
        return list(self._savers)

    def save(self, way: str, path: str, durable: bool) -> float:
        """Change the state, save it, and return the seconds of the save, its fsyncs included when ``durable``."""
        self.change()
        self.prepare(Path(path))
        started = perf_counter()
        self._savers[way](Path(path))
        if durable:
            disk.sync_tree(Path(path))
        return perf_counter() - started


class Raw(Family):
    """The physical limit: bytes, durable, nothing else."""

    def savers(self) -> dict[str, Save]:
        parts = disk.buffers(self.arrays)
        return {name: _raw(write, parts) for name, write in disk.WAYS.items()}


def _raw(write: disk.Write, parts: list[memoryview]) -> Save:
    return lambda path: write(path, parts)


class Ours(Family):
    """modelkeep: hashed and durable when it returns, into a keep of its own."""

    def savers(self) -> dict[str, Save]:
        return {"modelkeep": lambda _: self._keep.save_state(self.arrays)}

    def prepare(self, path: Path) -> None:
        """The keep is there before a training saves into it."""
        import modelkeep as mk

        self._keep = mk.open(path)

    def syncs(self, path: str) -> int:
        """How often one save into a keep that is there already calls fsync or fdatasync."""
        import modelkeep as mk

        keep = mk.open(path)
        keep.save_state(self.arrays)
        self.change()
        calls: list[int] = []
        real = (os.fsync, os.fdatasync)

        def counted(sync: Callable[[int], None], descriptor: int) -> None:
            calls.append(descriptor)
            sync(descriptor)

        os.fsync, os.fdatasync = (partial(counted, sync) for sync in real)
        try:
            keep.save_state(self.arrays)
        finally:
            os.fsync, os.fdatasync = real
        return len(calls)


class Numpy(Family):
    """What saves numpy arrays."""

    def savers(self) -> dict[str, Save]:
        import numpy as np
        from safetensors.numpy import save_file

        return {
            "safetensors": lambda path: save_file(self.arrays, path),
            "np.savez": lambda path: np.savez(path.with_suffix(".npz"), allow_pickle=False, **self._flat()),
        }

    def _flat(self) -> states.Arrays:
        return {_flat(name): array for name, array in self.arrays.items()}


class Torch(Family):
    """torch.save and its distributed checkpoint (DCP), on one process."""

    def savers(self) -> dict[str, Save]:
        import torch
        import torch.distributed.checkpoint as dcp

        # shares the memory of the arrays, so `change` changes it too
        state = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        return {
            "torch.save": lambda path: torch.save(state, path),
            "torch DCP": lambda path: dcp.save(state, checkpoint_id=path, no_dist=True),
        }


class Tensorflow(Family):
    """tf.train.CheckpointManager and what Keras saves; the model has one layer per array."""

    def savers(self) -> dict[str, Save]:
        os.environ["KERAS_BACKEND"] = "tensorflow"
        import keras
        import tensorflow as tf

        variables = {name: tf.Variable(array) for name, array in self.arrays.items()}
        model = keras.Sequential([keras.Input((1,)), *(_layer(name, array) for name, array in self.arrays.items())])
        # Keras holds the same numbers again; a state is saved from one of the two
        return {
            "tf CheckpointManager": lambda path: _checkpoint(tf, variables, path),
            ".weights.h5": lambda path: model.save_weights(path.with_suffix(".weights.h5")),
            ".keras": lambda path: model.save(path.with_suffix(".keras")),
        }

    def change(self) -> None:
        """Nothing: these savers look at no earlier state."""


def _checkpoint(tf: object, variables: dict[str, object], path: Path) -> None:
    train = tf.train  # type: ignore[attr-defined]
    train.CheckpointManager(train.Checkpoint(**{_flat(name): v for name, v in variables.items()}), path, 1).save()


def _flat(name: str) -> str:
    return name.replace("/", "_")


def _layer(name: str, array: object) -> object:
    import keras

    class Holder(keras.layers.Layer):
        """A layer that holds one array."""

        def build(self, _: object) -> None:
            self.kernel = self.add_weight(shape=array.shape, initializer="zeros", name="kernel")  # type: ignore[attr-defined]
            self.kernel.assign(array)

        def call(self, inputs: object) -> object:
            return inputs

    return Holder(name=_flat(name))


class Jax(Family):
    """Orbax, as jax users call it."""

    def savers(self) -> dict[str, Save]:
        import orbax.checkpoint as ocp

        checkpointer = ocp.StandardCheckpointer()
        return {"Orbax": lambda path: self._save(checkpointer, path)}

    def _save(self, checkpointer: object, path: Path) -> None:
        checkpointer.save(path.absolute(), self._state)  # type: ignore[attr-defined]
        checkpointer.wait_until_finished()  # type: ignore[attr-defined]

    def change(self) -> None:
        """New arrays: jax has no others."""
        import jax

        states.change(self.arrays)
        self._state = {name: jax.numpy.array(array) for name, array in self.arrays.items()}
        jax.block_until_ready(self._state)
