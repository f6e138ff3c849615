"""The state of callbacks: what each of Keras' own holds, and what a user's own declares.

A callback of the user joins by two methods: ``get_state() -> tree`` (arrays and JSON values) and ``set_state(tree)``.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from keras import callbacks as keras_callbacks
from keras.callbacks import Callback, CSVLogger
from keras.src.utils import file_utils

from modelkeep.training.keras.mutations import attributes_changed_by

State = dict[str, Any]

_ATTRIBUTES: dict[type[Callback], tuple[str, ...]] = {
    keras_callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    keras_callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras_callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
        "_current_epoch",
    ),
    keras_callbacks.TensorBoard: ("_global_train_batch", "_global_test_batch"),
    keras_callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras_callbacks.History: ("history", "epoch"),
    CSVLogger: ("keys",),
}
"""Attributes that change in training, of Keras 3.15; a callback that is not here changes none that matter."""

_KEPT_OF_MODEL = {"model.stop_training", "model.optimizer"}
"""What callbacks change on the model, and every checkpoint holds."""


def capture_callbacks(callbacks: Sequence[Callback]) -> dict[str, State]:
    """Return the state of every callback that has any, by class name (``EarlyStopping``, ``EarlyStopping_1``)."""
    return {name: state for name, callback in _named(callbacks) if (state := _capture(callback))}


def prepare_callbacks(callbacks: Sequence[Callback], saved: dict[str, State]) -> None:
    """Before ``on_train_begin``: put back the files that it would truncate."""
    for name, callback in _named(callbacks):
        if isinstance(callback, CSVLogger) and name in saved:
            with file_utils.File(callback.filename, "w") as file:
                file.write(saved[name]["text"])
            callback.append = True


def restore_callbacks(callbacks: Sequence[Callback], saved: dict[str, State]) -> None:
    """After ``on_train_begin``, which resets the callbacks: put back what ``capture_callbacks`` returned."""
    for name, callback in _named(callbacks):
        if name in saved:
            for attribute, value in saved[name].get("attributes", {}).items():
                setattr(callback, attribute, value)
            if "own" in saved[name]:
                cast("Any", callback).set_state(saved[name]["own"])


def missing_callbacks(callbacks: Sequence[Callback], saved: dict[str, State]) -> list[str]:
    """Name the callbacks that the checkpoint knows and the call does not pass, and those that it does not know."""
    present = {name for name, callback in _named(callbacks) if _capture(callback)}
    return [
        f"{name} was there when the checkpoint was written and is not passed now" for name in saved.keys() - present
    ] + [f"{name} is passed now and was not there when the checkpoint was written" for name in present - saved.keys()]


def undeclared_changes(callback: Callback) -> set[str]:
    """Attributes that a user's callback changes in training and that no ``get_state`` declares."""
    kind = type(callback)
    if not is_watched(callback):
        return set()
    base = next(base for base in kind.__mro__ if _is_keras(base))
    known = {name for cls, names in _ATTRIBUTES.items() if isinstance(callback, cls) for name in names}
    return (attributes_changed_by(kind, None, stop_at=base) | _generators_of(callback)) - known - _KEPT_OF_MODEL


def is_watched(callback: Callback) -> bool:
    """Whether a callback is of the user's own and declares no state."""
    return not _is_keras(type(callback)) and not _has_own_state(callback)


def _generators_of(callback: Callback) -> set[str]:
    """Attributes that are random generators: each draw changes them, wherever in the code it is."""
    kinds = (np.random.Generator, np.random.RandomState, random.Random)
    return {name for name, value in vars(callback).items() if isinstance(value, kinds) or _is_torch_generator(value)}


def _is_torch_generator(value: object) -> bool:
    return type(value).__module__ == "torch._C" and type(value).__name__ == "Generator"


def _capture(callback: Callback) -> State:
    state: State = {}
    names = [name for cls, names in _ATTRIBUTES.items() if isinstance(callback, cls) for name in names]
    if names:
        state["attributes"] = {name: _freeze(getattr(callback, name)) for name in names if hasattr(callback, name)}
    if isinstance(callback, CSVLogger):
        state["text"] = _text_of(callback)
    if _has_own_state(callback):
        state["own"] = cast("Any", callback).get_state()
    return state


def _text_of(callback: CSVLogger) -> str:
    if callback.csv_file is not None and not callback.csv_file.closed:
        callback.csv_file.flush()
    if not file_utils.exists(callback.filename):
        return ""
    with file_utils.File(callback.filename, "r") as file:
        return str(file.read())


def _freeze(value: Any) -> Any:
    """A copy that later epochs do not change; numbers as Python's, in which Keras compares and prints them.

    Arrays (the best weights) Keras replaces and never writes to: they are shared, read-only.
    """
    if isinstance(value, np.ndarray):
        value = value.view()
        value.setflags(write=False)
    if isinstance(value, dict):
        return {key: _freeze(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_freeze(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _named(callbacks: Sequence[Callback]) -> Iterator[tuple[str, Callback]]:
    seen: dict[str, int] = {}
    for callback in callbacks:
        kind = type(callback).__name__
        count = seen.get(kind, 0)
        seen[kind] = count + 1
        yield (f"{kind}_{count}" if count else kind), callback


def _has_own_state(callback: Callback) -> bool:
    return hasattr(callback, "get_state") and hasattr(callback, "set_state")


def _is_keras(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "keras"
