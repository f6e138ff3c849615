"""Savers of other libraries, as their documentation has them used, each with a load that tells which version it found.

Each is a class with a folder: ``save(number)`` saves version 1 or 2, ``load()`` returns the arrays that a normal load
gives, and ``load_older()`` those of the step before, where a user who names it can have it.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .savers import mark

Arrays = dict[str, np.ndarray]


def version(number: int) -> Arrays:
    """The arrays of a version: one of several pages, one of some bytes, and a number that counts."""
    dice = np.random.default_rng(number)
    return {
        "kernel": dice.random((96, 96), dtype="f4"),
        "out": dice.random((96, 30), dtype="f4"),
        "bias": dice.random(30, dtype="f4"),
        "count": np.array(number, "i8"),
    }


class Saver:
    """One way to save in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, number: int) -> None:
        """Save a version; when it returns it is acknowledged."""
        raise NotImplementedError

    def load(self) -> Arrays | None:
        """What a normal load finds; None where it says that there is nothing yet."""
        raise NotImplementedError

    def load_older(self) -> Arrays | None:
        """What is found under the name of the first version, where that is another."""
        return None


class Keras(Saver):
    """A model that is saved over the one before."""

    name = "model.keras"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import keras

        self.keras = keras
        self.path = str(folder / self.name)

    def model(self, number: int) -> Any:
        """A model with the weights of a version; 0: weights of nobody."""
        keras = self.keras
        model = keras.Sequential(
            [keras.Input((96,)), keras.layers.Dense(96, use_bias=False), keras.layers.Dense(30)], name="m"
        )
        if number:
            arrays = version(number)
            model.set_weights([arrays["kernel"], arrays["out"], arrays["bias"]])
        return model

    @staticmethod
    def arrays(model: Any) -> Arrays:
        """The weights of a model."""
        return dict(zip(("kernel", "out", "bias"), model.get_weights(), strict=True))

    def save(self, number: int) -> None:
        self.model(number).save(self.path)

    def load(self) -> Arrays | None:
        return self.arrays(self.keras.saving.load_model(self.path))


class KerasWeights(Keras):
    """``save_weights`` over the file before."""

    name = "model.weights.h5"

    def save(self, number: int) -> None:
        self.model(number).save_weights(self.path)

    def load(self) -> Arrays | None:
        model = self.model(0)
        model.load_weights(self.path)
        return self.arrays(model)


class BackupAndRestore(Keras):
    """The callback, with its defaults. It keeps the epoch in a file beside the weights."""

    def callback(self, number: int) -> Any:
        """The callback as ``fit`` has it, with a model of a version."""
        found = self.keras.callbacks.BackupAndRestore(str(self.folder / "backup"))
        model = self.model(number)
        model.compile("sgd", "mse")
        found.set_model(model)
        return found

    def save(self, number: int) -> None:
        callback = self.callback(number)
        callback.on_epoch_end(number - 1)

    def load(self) -> Arrays | None:
        callback = self.callback(0)
        fresh = self.arrays(callback.model)
        callback.on_train_begin()
        found = self.arrays(callback.model)
        epoch = getattr(callback.model, "_initial_epoch", 0)
        if not epoch and all(np.array_equal(found[name], fresh[name]) for name in fresh):
            return None
        return {**found, "count": np.array(epoch, "i8")}


class Torch(Saver):
    """``torch.save`` over the file before."""

    def save(self, number: int) -> None:
        import torch

        torch.save({name: torch.tensor(array) for name, array in version(number).items()}, self.folder / "model.pt")

    def load(self) -> Arrays | None:
        import torch

        found = torch.load(self.folder / "model.pt", weights_only=True)
        return {name: tensor.numpy() for name, tensor in found.items()}


class TorchDistributed(Saver):
    """``torch.distributed.checkpoint`` in one process, with the same id."""

    def save(self, number: int) -> None:
        import torch
        import torch.distributed.checkpoint as dcp

        state = {name: torch.tensor(array) for name, array in version(number).items()}
        dcp.save(state, checkpoint_id=str(self.folder / "dcp"), no_dist=True)

    def load(self) -> Arrays | None:
        import torch
        import torch.distributed.checkpoint as dcp

        state = {name: torch.zeros_like(torch.tensor(array)) for name, array in version(1).items()}
        dcp.load(state, checkpoint_id=str(self.folder / "dcp"), no_dist=True)
        return {name: tensor.numpy() for name, tensor in state.items()}


class Safetensors(Saver):
    """``save_file`` over the file before."""

    def save(self, number: int) -> None:
        from safetensors.numpy import save_file

        save_file(version(number), self.folder / "model.safetensors")

    def load(self) -> Arrays | None:
        from safetensors.numpy import load_file

        return load_file(self.folder / "model.safetensors")


class TensorFlow(Saver):
    """``tf.train.CheckpointManager``, which keeps two."""

    def manager(self, number: int) -> Any:
        """The manager, and variables of a version."""
        import tensorflow as tf

        self.variables = {name: tf.Variable(array) for name, array in version(number).items()}
        checkpoint = tf.train.Checkpoint(**self.variables)
        return tf.train.CheckpointManager(checkpoint, str(self.folder / "tf"), max_to_keep=2)

    def arrays(self) -> Arrays:
        """What the variables hold."""
        return {name: variable.numpy() for name, variable in self.variables.items()}

    def save(self, number: int) -> None:
        self.manager(number).save(checkpoint_number=number)

    def load(self) -> Arrays | None:
        return self.arrays() if self.manager(3).restore_or_initialize() is not None else None

    def load_older(self) -> Arrays | None:
        import tensorflow as tf

        self.variables = {name: tf.Variable(array) for name, array in version(3).items()}
        status = tf.train.Checkpoint(**self.variables).restore(str(self.folder / "tf" / "ckpt-1"))
        status.assert_existing_objects_matched()
        return self.arrays()


class Orbax(Saver):
    """``orbax.checkpoint.CheckpointManager``, a step beside the one before."""

    def manager(self) -> Any:
        """The manager; it saves before it returns."""
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.folder / "orbax", options=options)

    def save(self, number: int) -> None:
        import orbax.checkpoint as ocp

        manager = self.manager()
        manager.save(number, args=ocp.args.StandardSave(version(number)))
        manager.close()

    def load(self) -> Arrays | None:
        with self.manager() as manager:
            step = manager.latest_step()
            return None if step is None else self._restored(manager, step)

    def load_older(self) -> Arrays | None:
        with self.manager() as manager:
            return self._restored(manager, 1)

    @staticmethod
    def _restored(manager: Any, step: int) -> Arrays:
        import orbax.checkpoint as ocp

        found = manager.restore(step, args=ocp.args.StandardRestore(version(3)))
        return {name: np.asarray(array) for name, array in found.items()}


class Modelkeep(Saver):
    """A checkpoint of a run beside the one before."""

    def run(self) -> Any:
        """The run, opened."""
        import modelkeep as mk

        return mk.open(self.folder / "keep").run("cnn", seed=7, capture=False, exact=False)

    def save(self, number: int) -> None:
        with self.run() as run:
            run.save(version(number), step=number, epoch=0, wait=True)

    def load(self) -> Arrays | None:
        with self.run() as run:
            return run.resumed[1] if run.resumed else None


PEERS: dict[str, type[Saver]] = {
    ".keras": Keras,
    ".weights.h5": KerasWeights,
    "BackupAndRestore": BackupAndRestore,
    "torch.save": Torch,
    "torch DCP, same id": TorchDistributed,
    "safetensors": Safetensors,
    "tf CheckpointManager": TensorFlow,
    "Orbax CheckpointManager": Orbax,
    "modelkeep": Modelkeep,
}


def found_in(saver: Saver) -> str:
    """``old``, ``new``, ``older: …`` when only a user who names the older one gets it, ``wrong: …`` or ``lost: …``."""
    try:
        found = saver.load()
        if found is not None:
            return _version_of(found)
        trouble = "it starts from nothing"
    except BaseException as error:  # noqa: BLE001  whatever is raised; that of torch DCP is no Exception
        trouble = f"{type(error).__name__}: {str(error)[:200]}"
    try:
        older = saver.load_older()
        if older is not None and _version_of(older) == "old":
            return f"older: {trouble}"
    except BaseException:  # noqa: BLE001  the older one is lost too
        pass
    return f"lost: {trouble}"


def _version_of(found: Arrays) -> str:
    for number, name in ((1, "old"), (2, "new")):
        wanted = version(number)
        if all(np.array_equal(array, wanted[key]) and array.dtype == wanted[key].dtype for key, array in found.items()):
            return name
    return f"wrong: what loads is neither version, in {sorted(found)}"


def answer(make: Callable[[Path], Saver]) -> None:
    """Tell of each folder that is named on the input, as JSON, what is found in it."""
    real = os.dup(1)
    os.dup2(2, 1)  # libraries print
    for line in sys.stdin:
        os.write(real, (json.dumps(found_in(make(Path(line.rstrip("\n"))))) + "\n").encode())


if __name__ == "__main__":
    what, name, *folder = sys.argv[1:]
    if what == "look":
        answer(PEERS[name])
    else:
        saver = PEERS[name](Path(folder[0]))
        if what == "act":
            mark("begin")
        saver.save(2 if what == "act" else 1)
        if what == "act":
            mark("ack")
