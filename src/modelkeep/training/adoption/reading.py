"""What a checkpoint of another tool holds of a training: its state, how far it is, and what nobody wrote down."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, UnknownFormat, UsageError
from modelkeep.importers import Weights, open_weights
from modelkeep.importers.folder import list_names, open_member, read_json, read_text
from modelkeep.training.adoption.kinds import KERAS, ORBAX, TENSORFLOW, TORCH, is_optimizer

_KINDS = {
    "keras": KERAS, "hdf5": KERAS, "tensorflow-checkpoint": TENSORFLOW, "orbax": ORBAX, "torch": TORCH,
}  # fmt: skip
_BACKUP, _BACKUP_PLACE = "latest.weights.h5", "training_metadata.json"
_MANAGED = "checkpoint"
_NEWEST = re.compile(r'^model_checkpoint_path: "([^"\n]+)"', re.MULTILINE)
_ITERATIONS = re.compile(r"(.*/)?optimizer(/inner_optimizer)?/(vars/0|_iterations)")
_SCALED = "optimizer/inner_optimizer/"
_STEPS = ("step", "global_step", "steps", "iteration", "iterations", "iter")
_MOST = 1 << 53
_ALWAYS_UNKNOWN = ("the random generators", "the order of the data and the place in it")


@dataclass(frozen=True, slots=True)
class Found:
    """A training as a file has it.

    ``state`` has an array for each name (torch: the containers of the file, with their plain values). ``step`` and
    ``epoch`` count what is done; ``epoch`` is None where only the length of the data can tell (Keras). ``unknown`` says
    what the file lacks.
    """

    kind: str
    path: str
    state: Mapping[str, Any]
    step: int
    epoch: int | None
    unknown: tuple[str, ...]


def read_training(
    path: str | os.PathLike[str], *, step: int | None = None, epoch: int | None = None, budget: Budget | None = None
) -> Found:
    """Read a checkpoint of Keras (``ModelCheckpoint``, ``BackupAndRestore``), TensorFlow, Orbax or torch.

    Of a folder of ``tf.train.CheckpointManager`` or of Orbax it is the newest one. Nothing in a file is run. ``step``
    and ``epoch`` stand before what the file tells.

    Raises:
        UsageError: nobody tells the steps.
        UnknownFormat: it is something else, or weights whose format has no room for a training.
        NotFound, Damaged, Unsafe, LimitExceeded: see `modelkeep.importers.open_weights`.
    """
    budget = budget or Budget()
    for option, count in (("step", step), ("epoch", epoch)):
        if count is not None and _whole(count) is None:
            raise UsageError(f"{option} counts what is done, from 0; not {count!r}")
    place, epoch_beside, unknown = _newest(os.fspath(path), budget)
    weights = open_weights(place, budget)
    kind = _KINDS.get(weights.format)
    if kind is None or (kind == KERAS and not _is_keras(weights)):
        raise UnknownFormat(
            f"{place}: {weights.format} files hold weights and no training that goes on; start a new one from them "
            "with modelkeep.transfer"
        )
    state = weights.tree() if weights.tree is not None else {name: one.read() for name, one in weights.tensors.items()}
    if not isinstance(state, Mapping):
        raise UnknownFormat(f"{place}: it holds {type(state).__name__}; a dict such as {{'model': …}} is wanted")
    has_optimizer = _optimizer_in(kind, state, weights)
    missing = () if has_optimizer else ("the optimizer, which the file does not have and which begins anew",)
    callbacks = ("callbacks, metrics and history",) if kind == KERAS else ()
    epochs = _first(epoch, epoch_beside, _whole(state.get("epoch")), None if kind == KERAS else 0)
    if epochs is None and any(name.startswith(_SCALED) for name in state):
        raise UsageError(
            f"{place} counts the steps that its loss scale did not pass over, which does not tell the epochs; say them "
            "with --epoch N (epoch=N)"
        )
    # A file of weights alone counts no steps: its epochs are enough.
    steps = _first(step, _step(kind, state, place), 0 if kind == KERAS and epochs is not None else None)
    if steps is None:
        epochs_too = " and the epochs with --epoch N (epoch=N)" if kind == KERAS else ""
        raise UsageError(f"{place} does not tell how many steps were done; say it with --step N (step=N){epochs_too}")
    return Found(kind, place, state, steps, epochs, (*missing, *_ALWAYS_UNKNOWN, *callbacks, *unknown))


def _first(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)


def _newest(path: str, budget: Budget) -> tuple[str, int | None, tuple[str, ...]]:
    """The checkpoint that is meant, the epoch where a file beside it tells, and what is unknown then."""
    if not os.path.lexists(path) and os.path.lexists(f"{path}.index"):
        return f"{path}.index", None, ()  # as TensorFlow names it
    if not os.path.isdir(path):
        return path, None, ()
    names = list_names(path, budget)
    if _BACKUP in names:
        return (os.path.join(path, _BACKUP), *_backup_place(path, names, budget))
    if _MANAGED in names and any(name.endswith(".index") for name in names):
        newest = _NEWEST.search(read_text(open_member(path, _MANAGED), budget))
        if newest is None:
            raise Damaged(f"{path}: its file 'checkpoint' names no checkpoint; name the .index file that is meant")
        return os.path.join(path, f"{os.path.basename(newest[1])}.index"), None, ()
    steps = [name for name in names if name.isdecimal() and os.path.isdir(os.path.join(path, name))]
    if steps:
        return _item(os.path.join(path, max(steps, key=int)), budget), None, ()
    return _item(path, budget), None, ()


def _backup_place(path: str, names: list[str], budget: Budget) -> tuple[int | None, tuple[str, ...]]:
    if _BACKUP_PLACE not in names:
        return None, ()
    document = read_json(open_member(path, _BACKUP_PLACE), budget)
    epoch, batch = (document.get("epoch"), document.get("batch")) if isinstance(document, dict) else (None, None)
    if type(epoch) is not int or epoch < 0:
        raise Damaged(f"{path}: {_BACKUP_PLACE} has no epoch; name {_BACKUP} itself, and the epoch with --epoch")
    if not batch:
        return epoch, ()
    return epoch, (f"what is left of epoch {epoch + 1}, of which it saw {batch} batches and which is begun again",)


def _item(folder: str, budget: Budget) -> str:
    """The one item of a step of Orbax, whatever it is called."""
    names = list_names(folder, budget)
    if "_METADATA" in names:
        return folder
    items = [name for name in names if os.path.lexists(os.path.join(folder, name, "_METADATA"))]
    return os.path.join(folder, items[0]) if len(items) == 1 else folder


def _is_keras(weights: Weights) -> bool:
    """Whether HDF5 is that of Keras 3; before it names were those of layers, with no place for all of an optimizer."""
    return any("/vars/" in f"/{name}" for name in weights.tensors)


def _optimizer_in(kind: str, state: Mapping[str, Any], weights: Weights) -> bool:
    if kind == TORCH:
        return any(is_optimizer(part) for part in state.values())
    return bool(weights.metadata.get("optimizer")) or any(_ITERATIONS.fullmatch(name) for name in state)


def _step(kind: str, state: Mapping[str, Any], place: str) -> int | None:
    """Steps done: as the file says, else as its optimizer has counted, else as Orbax has named the folder."""
    named = [found for name in _STEPS if (found := _whole(state.get(name))) is not None]
    if named:
        return named[0]
    counted = _torch_steps(state) if kind == TORCH else _iterations(state)
    if counted:
        return max(counted)
    folders = os.path.normpath(place).split(os.sep)
    return next((int(name) for name in reversed(folders[-2:]) if kind == ORBAX and name.isdecimal()), None)


def _iterations(state: Mapping[str, Any]) -> list[int]:
    found = {name: _whole(array) for name, array in state.items() if _ITERATIONS.fullmatch(name)}
    inner = {name: count for name, count in found.items() if name.startswith(_SCALED)}
    return [count for count in (inner or found).values() if count is not None]


def _torch_steps(state: Mapping[str, Any]) -> list[int]:
    slots = [slot for part in state.values() if is_optimizer(part) for slot in part["state"].values()]
    steps = [_whole(slot.get("step")) for slot in slots if isinstance(slot, Mapping)]
    return [step for step in steps if step is not None]


def _whole(value: Any) -> int | None:
    """A count: a whole number that is neither negative nor more than JSON has, of Python or in an array without axes.

    >>> _whole(np.float32(3)), _whole(True), _whole(2.5)
    (3, None, None)
    """
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0 and value.dtype.kind in "iuf":
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < _MOST else None
