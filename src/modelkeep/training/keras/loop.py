"""The loop around ``Model.fit``: a callback list that sees every step after all callbacks have.

Here training is captured, put back, and stopped by a signal.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras.callbacks import CallbackList, EarlyStopping
from keras.src.utils.python_utils import pythonify_logs

from modelkeep.frameworks import keras as keras_door
from modelkeep.model.keras_model import described
from modelkeep.state import differences
from modelkeep.training.interrupt import Signals, leave
from modelkeep.training.keras.callbacks import prepare_callbacks, restore_callbacks
from modelkeep.training.keras.feed import Feed
from modelkeep.training.keras.layers import restore_layers
from modelkeep.training.keras.progress import (
    Position,
    State,
    capture,
    final_variables,
    variables_to_continue,
)
from modelkeep.training.keras.setup import trainable
from modelkeep.training.policy import Schedule
from modelkeep.training.randomness import restore_generators
from modelkeep.training.run import Run


@dataclass(frozen=True, slots=True)
class Plan:
    """What a loop works with."""

    run: Run
    schedule: Schedule
    signals: Signals
    feed: Feed | None
    """The training data; None for data that open only at their beginning: checkpoints are then at epoch ends."""
    validation: Feed | None
    setup: State
    """What data, model and compilation are; a resume compares it."""
    on_step: Callable[[], None]
    """Looks for what cannot be resumed; called after the first step and after the first epoch."""


class Loop(CallbackList):
    """Drives the callbacks of one training, which may be two calls of ``Model.fit``.

    A training that resumes inside an epoch first finishes that epoch in a call of its own, and then goes on; the
    callbacks see one training.
    """

    def __init__(self, callbacks: list[Any], plan: Plan, **keras_arguments: Any) -> None:
        super().__init__(callbacks, **keras_arguments)
        self._plan = plan
        self._saved: State | None = None
        self._described = described(self.model)
        self._began = self._stepped = self._went_round = False
        self._shift = 0
        self._step_logs: Any = None
        self._trained: State | None = None
        self._step: Callable[..., Any] | None = None
        self.more_to_come = False
        self.position = Position()
        self.last_logs: Mapping[str, float] | None = None
        self.before_the_end: State = {}

    @property
    def setup(self) -> State:
        """What this training is set up with."""
        return self._plan.setup

    def begin_phase(self, tree: State) -> None:
        """Begin with the weights, the history and the generators of a training that has ended, and nothing else of it.

        As with a second ``Model.fit`` after ``compile``: optimizer and callbacks are new.
        """
        training = tree["training"]
        history = {name: state for name, state in training["callbacks"].items() if name == "History"}
        self._saved = {"training": {**training, "callbacks": history, "data": {}, "stop": False}}
        self.position = replace(Position.of(tree), batch=0)
        self.last_logs = training["logs"]
        self._plan.schedule.saved(self.position.step)
        self.model.stop_training = False
        keras_door.load_into(self.model, final_variables(tree), parts=("model",))
        self.before_the_end = keras_door.state_of(self.model)

    def resume(self, tree: State, *, same_batches: bool = True) -> None:
        """Go on from a checkpoint's tree; the variables are put back here, the rest when Keras has begun.

        Without ``same_batches`` the place inside an epoch cannot be found: the epoch is begun again.
        """
        self._saved = tree
        self.position = Position.of(tree)
        if not same_batches:
            self.position = replace(self.position, batch=0)
        self.last_logs = tree["training"]["logs"]
        self._step_logs = tree["training"].get("step_logs")
        self._plan.schedule.saved(self.position.step)
        self.model.stop_training = tree["training"]["stop"]
        self.before_the_end = variables_to_continue(tree)
        keras_door.load_into(self.model, self.before_the_end)

    def start_at(self, epoch: int, *, step: int = 0) -> None:
        """Begin a fresh training at ``epoch``, as ``initial_epoch`` asks, or one that another tool has begun."""
        self.position = Position(epoch=epoch, step=step)
        self.before_the_end = keras_door.state_of(self.model)  # also where no epoch is left to train

    @property
    def stopped(self) -> bool:
        """Whether a callback has ended the training."""
        return bool(self.model.stop_training)

    @property
    def is_epoch_trained(self) -> bool:
        """Whether all batches of the epoch are behind, so that its validation and its end are next."""
        feed = self._plan.feed
        return feed is not None and (self.stopped or self.position.batch == feed.source.steps)

    def capture(self) -> State:
        """The whole state of the training at this step."""
        feeds = {"train": self._plan.feed, "validation": self._plan.validation}
        at = {"train": self.position.batch, "validation": 0}  # a validation is begun anew
        data = {name: feed.source.state(at[name]) for name, feed in feeds.items() if feed is not None}
        state = capture(self.model, self.callbacks, self.position, logs=self.last_logs, data=data)
        # A callback may have frozen or thawed layers: a resume, whose model has not, is refused then.
        compiled = {**self._plan.setup["compile"], "trainable": trainable(self.model)}
        state["training"]["setup"] = {**self._plan.setup, "compile": compiled}
        return state | self._described

    def final_metrics(self, tree: State) -> Mapping[str, float] | None:
        """The metrics of the weights that ``tree`` ends with; none where they are not of the end of any epoch."""
        if not differences(tree["model"], self.before_the_end["model"]):
            return self.last_logs
        history = self.model.history
        for stopper in self.callbacks:
            if isinstance(stopper, EarlyStopping) and stopper.best_epoch in history.epoch and self._has_best(stopper):
                at = history.epoch.index(stopper.best_epoch)
                rows = history.history.items()
                return {name: values[at] for name, values in rows if len(values) == len(history.epoch)}
        return None

    def _has_best(self, stopper: EarlyStopping) -> bool:
        """Whether the model has the best weights that the callback holds: others may have changed them since."""
        best = stopper.best_weights if stopper.restore_best_weights else None
        return best is not None and not differences(list(best), self.model.get_weights())

    def save(
        self,
        reason: str,
        *,
        metrics: Mapping[str, float] | None = None,
        wait: bool = False,
        tree: State | None = None,
    ) -> None:
        """Hand ``tree``, by default the state of now, to the background writer (``wait=True``: until it is durable)."""
        self._plan.run.wait_for_room()
        step, epoch = self.position.step, self.position.epoch
        self._plan.run.save(tree or self.capture(), step=step, epoch=epoch, metrics=metrics, reason=reason, wait=wait)
        self._plan.schedule.saved(step)

    # What Keras calls

    def on_train_begin(self, logs: Any = None) -> None:
        if self._began:
            return
        self._began = True
        if self._saved is None:
            super().on_train_begin(logs)
            return
        callbacks = self._saved["training"]["callbacks"]
        prepare_callbacks(self.callbacks, callbacks)
        super().on_train_begin(logs)
        restore_callbacks(self.callbacks, callbacks)
        if self.position.batch == 0:
            self._restore_rest()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.position = replace(self.position, epoch=epoch)
        if self._plan.feed is not None:
            self._plan.feed.begin(epoch)
        super().on_epoch_begin(epoch, logs)
        if self._saved is not None:
            self._resume_inside_epoch(self._saved)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._plan.feed is not None and self._plan.feed.is_behind:
            self._begin_standing_still()
            return
        super().on_train_batch_begin(batch + self._shift, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._step is not None:
            self._end_standing_still()
            return
        batch += self._shift
        super().on_train_batch_end(batch, logs)
        self._step_logs = logs
        done = batch + 1
        if self._plan.feed is not None and self._plan.feed.source.steps is not None:
            done = min(done, self._plan.feed.source.steps)  # of several steps an execution the last ones may be missing
        self.position = replace(self.position, batch=done, step=self.position.step + done - self.position.batch)
        if not self._stepped:
            self._stepped = True
            self._plan.on_step()
        pending = self._plan.signals.pending
        if pending is not None or self._plan.schedule.due(self.position.step):
            self._save_inside_epoch(pending, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        if self._has_length:
            self._trained = self.capture()
        if self._plan.validation is not None:
            self._plan.validation.begin(self.position.evaluations)
        self.position = replace(self.position, evaluations=self.position.evaluations + 1)
        super().on_test_begin(logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_test_batch_end(batch, logs)
        pending = self._plan.signals.pending
        if pending is not None and self._trained is not None:
            self._save_before_validation(pending, self._trained)

    def on_test_end(self, logs: Any = None) -> None:
        self._trained = None
        super().on_test_end(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        self.last_logs = pythonify_logs(logs)
        if not self._went_round:
            self._went_round = True
            self._plan.on_step()
            self._tell_unknown_metric(self.last_logs)
        self._plan.run.log(self.last_logs, step=self.position.step, epoch=epoch)
        self.position, self._shift = replace(self.position, epoch=epoch + 1, batch=0), 0
        if self.stopped or self.position.epoch == self.params["epochs"]:
            self.before_the_end = keras_door.state_of(self.model)
        pending = self._plan.signals.pending
        if (
            pending is not None
            or self.stopped
            or self._plan.schedule.due(self.position.step, epoch_ended=self.position.epoch)
        ):
            self.save("signal" if pending else "policy", metrics=self.last_logs, wait=pending is not None)
        self._leave_if(pending)

    def on_train_end(self, logs: Any = None) -> None:
        if not self.more_to_come:
            super().on_train_end(logs if logs is not None else self.last_logs)

    # How it goes on

    def _save_inside_epoch(self, pending: int | None, logs: Any) -> None:
        """Not after the last batch of an epoch: its end is next and saves, with the validation done."""
        if not self._has_length:
            self._leave_if(pending)  # the position cannot be found again: the last epoch's end is kept
        elif not self.is_epoch_trained:
            self._flush_futures()
            self.save("signal" if pending else "policy", metrics=pythonify_logs(logs), wait=pending is not None)
            self._leave_if(pending)

    def _tell_unknown_metric(self, logs: Mapping[str, float]) -> None:
        """A misspelt name would keep no best checkpoint, and nobody would know."""
        best = self._plan.run.retain.best
        not_yet = best is not None and best.metric.startswith("val_") and "val_loss" not in logs
        if best is not None and best.metric not in logs and not not_yet:
            warnings.warn(
                f"retain(best=best({best.metric!r})): there is no such metric, so no checkpoint is the best; there are "
                f"{', '.join(logs)}",
                RuntimeWarning,
                stacklevel=2,
            )

    @property
    def _has_length(self) -> bool:
        return self._plan.feed is not None and self._plan.feed.source.steps is not None

    def _save_before_validation(self, pending: int, trained: State) -> None:
        """A validation may be long, and whoever sends SIGTERM does not wait: it is begun anew by the next process."""
        trained["training"]["step_logs"] = pythonify_logs(self._step_logs)
        self.save("signal", wait=True, tree=trained)
        self._leave_if(pending)

    def _begin_standing_still(self) -> None:
        """All batches of the epoch are behind: Keras' loop turns once, with a step that changes nothing.

        What follows the last batch (the epoch's logs, the validation) is then as it was.
        """
        logs = self._step_logs
        is_jax = keras.backend.backend() == "jax"
        self._step = self.model.train_function
        self.model.train_function = lambda *given: (logs, given[0]) if is_jax else logs

    def _end_standing_still(self) -> None:
        self.model.train_function, self._step = self._step, None

    def _resume_inside_epoch(self, saved: State) -> None:
        """``on_epoch_begin`` has run a second time for this epoch: what it changed is put back too."""
        assert self._plan.feed is not None
        keras_door.load_into(self.model, variables_to_continue(saved))
        restore_callbacks(self.callbacks, saved["training"]["callbacks"])
        self._shift = self.position.batch
        self._plan.feed.on_open = self._restore_rest

    def _restore_rest(self) -> None:
        """Last of all, when nothing else draws from them any more: the data's own state and the generators."""
        assert self._saved is not None
        training, self._saved = self._saved["training"], None
        feeds = {"train": self._plan.feed, "validation": self._plan.validation}
        for name, feed in feeds.items():
            if feed is not None:
                feed.on_open = None
                feed.source.restore(training["data"].get(name, {}))
        self.model.stop_training = training["stop"]
        restore_layers(self.model, training.get("layers", {}))
        restore_generators(training["generators"])

    def _leave_if(self, signal: int | None) -> None:
        if signal is not None:
            self._plan.run.close()
            leave(signal)
