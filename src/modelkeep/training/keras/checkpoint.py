"""``Checkpoint``: the callback for a plain ``model.fit``, which saves and resumes by itself at epoch starts."""

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from keras.callbacks import Callback, CallbackList, History

from modelkeep.errors import UsageError
from modelkeep.frameworks import keras as keras_door
from modelkeep.model.keras_model import described
from modelkeep.training.adoption.kinds import adopted_of
from modelkeep.training.adoption.placing import begun_epoch, place_in_keras
from modelkeep.training.interrupt import leave_on_sigterm
from modelkeep.training.keras.callbacks import prepare_callbacks, restore_callbacks
from modelkeep.training.keras.layers import restore_layers
from modelkeep.training.keras.progress import Position, State, capture, variables_to_continue
from modelkeep.training.policy import Every, Retain, Schedule, check_policies, every
from modelkeep.training.randomness import restore_generators
from modelkeep.training.run import Run

_LASTING = ("model", "optimizer", "replicas")
"""Metrics begin anew with each epoch, and TensorFlow makes their variables only in the first step."""


class Checkpoint(Callback):
    """Save at the end of epochs and go on from there: the same script, run again, resumes.

    Weights, optimizer, random generators, history and the other callbacks are put back. It is exact at epoch starts
    where the order of the data follows from the global generators (arrays, seeded ``tf.data``).
    ``modelkeep.keras.fit`` is exact inside epochs too, and checks what it promises.

    Args:
        run: the run of ``keep.run(...)``, or a name: a run in the default keep (``$MODELKEEP_KEEP``, else ``./keep``).
        checkpoint: how often, of ``modelkeep.every``; by default each epoch. Steps count at the ends of epochs.
        retain: which checkpoints stay, of ``modelkeep.retain``; by default the last three.

    Raises:
        StateMismatch: when training begins and the model is not that of the checkpoint.
        UsageError: when training begins and the model is not built.

    The final state is durable when ``fit`` returns. SIGTERM ends a script with code 75 once the save that is under way
    is durable; what the epoch has done since is trained again.
    """

    def __init__(self, run: Run | str, *, checkpoint: Every | None = None, retain: Retain | None = None) -> None:
        super().__init__()
        check_policies(checkpoint, retain)
        self._run = Run.of(run)
        if retain is not None:
            self._run.retain = retain
        self._schedule = Schedule(checkpoint or every(epochs=1))
        self._siblings: list[Callback] = []
        self._position = Position()
        self._before_the_end: State = {}
        self._described: State = {}
        self._signals = ExitStack()

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._join(inspect.currentframe())

    def on_train_begin(self, logs: Any = None) -> None:
        if not self.model.built:
            raise UsageError("the model must be built before fit: give it an Input layer, or call model.build(...)")
        self.model.optimizer.build(self.model.trainable_variables)
        self._run.check_fingerprint()
        self._described = described(self.model)
        self._signals.enter_context(leave_on_sigterm())
        if self._run.resumed is None:
            self._save("start", None)
            return
        checkpoint, tree = self._run.resumed
        adopted = adopted_of(tree)
        if adopted is not None:
            place_in_keras(self.model, adopted)
            epoch = begun_epoch(adopted, checkpoint.step, self.params["steps"])
            self._position = Position(epoch=epoch, step=checkpoint.step)
            self.model._initial_epoch = epoch
            self._save("start", None)
            return
        self._position = replace(Position.of(tree), batch=0)
        self._schedule.saved(self._position.step)
        self._before_the_end = variables_to_continue(tree)
        keras_door.load_into(self.model, self._before_the_end, parts=_LASTING)
        restore_callbacks(self._siblings, tree["training"]["callbacks"])
        restore_layers(self.model, tree["training"].get("layers", {}))
        self.model._initial_epoch = self.params["epochs"] if tree["training"]["stop"] else self._position.epoch
        restore_generators(tree["training"]["generators"])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model._initial_epoch = None  # Keras has read it; what comes after an interruption is not to find it

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        done = batch + 1
        self._position = replace(self._position, batch=done, step=self._position.step + done - self._position.batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._position = replace(self._position, epoch=epoch + 1, batch=0)
        self._run.log(logs or {}, step=self._position.step, epoch=epoch)
        if self.model.stop_training or epoch + 1 == self.params["epochs"]:
            self._before_the_end = keras_door.state_of(self.model)
        due = self._schedule.due(self._position.step, epoch_ended=epoch + 1)
        if self.model.stop_training or due:
            self._save("policy", logs)

    def on_train_end(self, logs: Any = None) -> None:
        self.model._initial_epoch = None
        self._signals.close()
        self._save("final", logs, {"continue": self._before_the_end})
        history: History = self.model.history
        self._run.finish(
            {
                "epochs": self._position.epoch,
                "stopped": bool(self.model.stop_training),
                "history": history.history,
                "epoch": history.epoch,
            }
        )

    def _join(self, frame: Any) -> None:
        """Take the last place in Keras' list of callbacks, so that we see each epoch after all of them.

        Keras tells a callback its model but not its siblings, and they hold state: the list that is calling us is
        found on the stack. Without it only the history is restored.
        """
        caller = frame.f_back.f_locals.get("self")
        if isinstance(caller, CallbackList):
            self._siblings = [one for one in caller.callbacks if one is not self]
            caller.callbacks = [*self._siblings, self]
        else:
            self._siblings = [self.model.history]
        if self._run.resumed is not None and adopted_of(self._run.resumed[1]) is None:
            prepare_callbacks(self._siblings, self._run.resumed[1]["training"]["callbacks"])

    def _save(self, reason: str, logs: Mapping[str, float] | None, extra: State | None = None) -> None:
        tree = capture(self.model, self._siblings, self._position, logs=logs, data={}) | (extra or {})
        tree |= self._described
        step, epoch = self._position.step, self._position.epoch
        self._run.save(tree, step=step, epoch=epoch, metrics=logs, reason=reason, wait=reason != "policy")
        self._schedule.saved(step)
