"""Exact resume for the ``Trainer`` of Hugging Face: ``train`` in place of ``trainer.train()``."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader
from transformers import trainer as trainer_module
from transformers.trainer_callback import ExportableState, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import TrainOutput

from modelkeep.errors import ModelkeepError, UsageError
from modelkeep.frameworks import torch as torch_door
from modelkeep.frameworks.torch_tensors import from_numpy
from modelkeep.training.interrupt import Signals, catch, leave
from modelkeep.training.policy import Every, Retain, Schedule, check_policies, every
from modelkeep.training.randomness import capture_generators, restore_generators
from modelkeep.training.refusal import another_kind, refuse_or_mark
from modelkeep.training.run import Run
from modelkeep.training.torch_batches import Batches
from modelkeep.values import Json

State = dict[str, Any]

__all__ = ["train"]


def train(
    trainer: transformers.Trainer,
    *,
    run: Run | str,
    checkpoint: Every | None = None,
    retain: Retain | None = None,
    exact: bool = True,
    resume_from_checkpoint: str | os.PathLike[str] | None = None,
) -> TrainOutput:
    """Train as ``trainer.train()`` does; killed at any moment, the same call goes on bit for bit.

    Saved in the background are the model, optimizer, scheduler and scaler, the ``TrainerState`` with its log, the loss
    that is not logged yet, callbacks that are ``ExportableState`` (as early stopping is), the random generators, and
    the place in the data: batches are read from the one that is next, in an order that follows from the seed of the
    run, and each draws its augmentations from generators of its own, with any number of workers. It saves before a
    step, and before each epoch. ``save_strategy="no"`` spares what the ``Trainer`` writes itself.

    Args:
        trainer: a ``transformers.Trainer`` of one process, built as always.
        run: the run of ``keep.run(...)``, or a name: a run in the default keep (``$MODELKEEP_KEEP``, else ``./keep``).
        checkpoint: when to save, of ``modelkeep.every``; by default each epoch and every five minutes. Steps are those
            of the optimizer.
        retain: which checkpoints stay, of ``modelkeep.retain``; by default the last three.
        exact: False goes on where the resume could not be bit for bit, and marks the run.
        resume_from_checkpoint: a folder that the ``Trainer`` has saved, which a run without checkpoints of its own
            takes over; the run is marked, for the order of the data is another. Later starts go on from the run.

    Returns: what ``trainer.train()`` does; ``training_loss`` is over all processes. A finished run trains nothing, and
    its final weights and its log are put back.

    Raises:
        NotExact: the data cannot be opened at any batch; with the fix.
        StateMismatch: the run has checkpoints of another model, or of another kind of training.
        UsageError: several processes or devices train, or a finished run is asked for more.
        SystemExit: with code 75 after SIGTERM, the state saved: run the same command again.
        KeyboardInterrupt: after Ctrl-C, the state saved.

    When this returns, the final state is durable.
    """
    check_policies(checkpoint, retain)
    _refuse(trainer)
    opened = Run.of(run, exact=exact)
    try:
        if retain is not None:
            opened.retain = retain
        opened.check_fingerprint(exact=exact)
        with catch() as signals:
            training = _Training(trainer, opened, checkpoint or every(), signals, exact=exact)
            output = training.train(None if resume_from_checkpoint is None else os.fspath(resume_from_checkpoint))
    except BaseException as error:
        try:
            opened.close()
        except ModelkeepError as second:
            error.add_note(f"closing run {opened.name} failed too: {second}")
        raise
    if isinstance(run, str):
        opened.close()
    return output


def _refuse(trainer: transformers.Trainer) -> None:
    args = trainer.args
    if args.world_size > 1 or args.n_gpu > 1 or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise UsageError("several processes or devices train; modelkeep saves a training of one")
    if args.auto_find_batch_size:
        raise UsageError("auto_find_batch_size tries what fits, which does not repeat itself; give the batch size")


class _Training(TrainerCallback):
    """One call of `train`: the first callback of the trainer, and what the trainer calls in place of its files."""

    def __init__(self, trainer: transformers.Trainer, run: Run, when: Every, signals: Signals, *, exact: bool) -> None:
        self._trainer, self._run, self._signals, self._exact = trainer, run, signals, exact
        self._schedule = Schedule(when)
        self._own_batches: Callable[[], Any] = trainer.get_train_dataloader
        self._saved: State | None = None
        """What is still to be put back."""
        self._begin_with: str | None = None
        self._metrics: dict[str, float] = {}

    def train(self, begin_with: str | None) -> TrainOutput:
        resumed = self._run.resumed
        if resumed is None:
            self._begin_with = begin_with
            if begin_with is not None:
                self._run.mark_not_exact([f"begun with the Trainer's checkpoint {os.path.basename(begin_with)}"])
            with self._in_place():
                return self._finish(self._trainer.train(resume_from_checkpoint=begin_with))
        checkpoint, tree = resumed
        if not isinstance(tree, dict) or "transformers" not in tree:
            raise another_kind(self._run)
        self._saved = tree
        self._schedule.saved(checkpoint.step)
        finished = self._run.finished if checkpoint.reason == "final" else None
        if isinstance(finished, dict):
            return self._put_end(finished)
        with self._in_place(), tempfile.TemporaryDirectory(prefix="modelkeep-") as folder:
            (Path(folder) / trainer_module.TRAINER_STATE_NAME).write_text(tree["transformers"]["state"], "utf-8")
            return self._finish(self._trainer.train(resume_from_checkpoint=folder))

    # What the trainer calls

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._saved is None:
            if self._begin_with is None:  # else what it has of generators is not loaded yet, and it is there again
                self._save("start", inside=False, wait=True)
            return
        extra = self._saved["transformers"]["extra"]
        self._trainer._tr_loss = from_numpy(extra["loss"]).to(args.device)
        self._trainer._total_loss_scalar = extra["total_loss"]
        self._trainer._globalstep_last_logged = extra["logged"]
        self._trainer._initial_global_step = 0  # the mean of the loss is over all steps
        self._trainer.current_flos = extra["flos"]
        self._metrics = dict(extra["metrics"])

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """All of the epoch before is done, and no callback has begun this one."""
        if self._saved is not None:
            if not self._saved["transformers"]["inside"]:
                self._finish_restoring()
            return
        if not float(state.epoch or 0).is_integer():
            return  # a checkpoint of the Trainer, taken over inside an epoch
        epochs = round(state.epoch or 0)
        pending = self._signals.pending
        if epochs and (pending is not None or self._schedule.due(state.global_step, epoch_ended=epochs)):
            self._save("signal" if pending else "policy", inside=False, wait=pending is not None)
        self._leave_if(pending)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """All that follows from the step before is done: its log, its evaluation."""
        pending = self._signals.pending
        is_first = float(state.epoch or 0).is_integer()
        if not is_first and (pending is not None or self._schedule.due(state.global_step)):
            self._save("signal" if pending else "policy", inside=True, wait=pending is not None)
            self._leave_if(pending)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs = {
            name: float(value) for name, value in (given.get("logs") or {}).items() if isinstance(value, int | float)
        }
        self._metrics |= {name: value for name, value in logs.items() if name != "epoch"}
        self._run.log(logs, step=state.global_step, epoch=int(state.epoch or 0))

    # What stands in place of the trainer's own

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """While the trainer trains, its files are the run, and its batches come from any place."""
        trainer = self._trainer
        own: dict[str, Callable[..., Any]] = {"get_train_dataloader": self._batches}
        loaders: dict[str, Callable[..., Any]] = {
            "_load_from_checkpoint": lambda *_, **__: self._load({"model": trainer.model}),
            "_load_optimizer_and_scheduler": lambda *_: self._load(_optimization(trainer)),
            "_load_scaler": lambda *_: None,
            "_load_rng_state": lambda *_: self._finish_restoring() if self._saved is not None else None,
        }
        if self._saved is not None:
            own |= loaders
        handler = trainer.callback_handler
        skip = trainer_module.skip_first_batches

        def skipped(batches: Any, count: int) -> Any:
            return batches.after(count) if isinstance(batches, _Batches) else skip(batches, count)

        before = {name: vars(trainer)[name] for name in own if name in vars(trainer)}
        handler.callbacks.insert(0, self)
        for name, function in own.items():
            setattr(trainer, name, function)
        trainer_module.skip_first_batches = skipped  # accelerate can only do it for loaders of its own
        try:
            yield
        finally:
            trainer_module.skip_first_batches = skip
            for name in own:
                delattr(trainer, name)
            vars(trainer).update(before)
            handler.callbacks.remove(self)

    def _batches(self) -> Any:
        loader = self._own_batches()
        problems: list[str] = []
        batches = loader
        if isinstance(loader, DataLoader):
            batches = _Batches(loader, self._run.seed)
            problems += batches.passes.problems()
            if batches.passes.length is None:
                problems.append(
                    "the training data do not tell their length, so the Trainer does not know in which epoch a step "
                    "is; give the dataset a __len__"
                )
        else:
            problems.append(f"the training data are of {type(loader).__name__}; a torch DataLoader can be resumed")
        refuse_or_mark(self._run, problems, exact=self._exact)
        return batches

    def _load(self, objects: Mapping[str, Any]) -> None:
        assert self._saved is not None
        torch_door.load_into(dict(objects), {name: self._saved["state"][name] for name in objects})

    def _finish_restoring(self) -> None:
        """Last of all, when nothing else draws any more and every callback has begun."""
        assert self._saved is not None
        for callback, (name, state) in zip(self._stateful(), self._saved["transformers"]["callbacks"], strict=False):
            if type(callback).__name__ == name:
                for attribute, value in {**state.get("args", {}), **state.get("attributes", {})}.items():
                    setattr(callback, attribute, value)
        with torch.no_grad():
            buffers = dict(self._trainer.model.named_buffers())
            for name, value in self._saved["transformers"]["extra"]["buffers"].items():
                buffers[name].copy_(from_numpy(value))
        restore_generators(self._saved["generators"])
        self._saved = None

    def _stateful(self) -> list[Any]:
        return [one for one in self._trainer.callback_handler.callbacks if isinstance(one, ExportableState)]

    # How it goes on

    def _save(self, reason: str, *, inside: bool, wait: bool = False) -> None:
        self._run.wait_for_room()
        trainer, state = self._trainer, self._trainer.state
        persistent = trainer.model.state_dict(keep_vars=True)
        extra = {
            "loss": trainer._tr_loss,
            "total_loss": float(trainer._total_loss_scalar),
            "logged": int(trainer._globalstep_last_logged),
            "flos": float(trainer.current_flos),
            "metrics": dict(self._metrics),
            "buffers": {name: one for name, one in trainer.model.named_buffers() if name not in persistent},
        }
        own = {
            "inside": inside,
            "state": json.dumps(dataclasses.asdict(state)),
            "callbacks": [[type(one).__name__, json.loads(json.dumps(one.state()))] for one in self._stateful()],
            "extra": extra,
        }
        parts = {"model": trainer.model, **_optimization(trainer)}
        tree = {**torch_door.state_of({"state": parts, "transformers": own}), "generators": capture_generators()}
        step, epoch = state.global_step, int(state.epoch or 0)
        self._run.save(tree, step=step, epoch=epoch, metrics=self._metrics, reason=reason, wait=wait)
        self._schedule.saved(step)

    def _leave_if(self, signal: int | None) -> None:
        if signal is not None:
            self._run.close()
            leave(signal)

    # The end

    def _finish(self, output: TrainOutput) -> TrainOutput:
        self._save("final", inside=not float(self._trainer.state.epoch or 0).is_integer(), wait=True)
        self._run.finish({"length": self._length(), "loss": output.training_loss, "metrics": dict(output.metrics)})
        return output

    def _put_end(self, finished: Mapping[str, Any]) -> TrainOutput:
        if finished["length"] != self._length():
            raise UsageError(
                f"run {self._run.name} is finished, and its schedule ended with it; new=True trains longer from the "
                "beginning, and with the weights of its last checkpoint in the model a new run goes on from them"
            )
        assert self._saved is not None
        trainer = self._trainer
        self._load({"model": trainer.model})
        trainer.state = TrainerState(**json.loads(self._saved["transformers"]["state"]))
        return TrainOutput(trainer.state.global_step, finished["loss"], dict(finished["metrics"]))

    def _length(self) -> list[Json]:
        return [float(self._trainer.args.num_train_epochs), float(self._trainer.args.max_steps)]


class _Batches(Batches):
    """The batches of the epoch that the trainer names, from the one that it skips to."""

    def __init__(self, loader: "DataLoader[Any]", seed: int) -> None:
        super().__init__(loader, seed, lambda: (self._epoch, self._behind))
        self._seed, self._epoch, self._behind = seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self._epoch = epoch

    def after(self, count: int) -> "_Batches":
        """The same without the first ``count`` batches of an epoch."""
        later = _Batches(self._loader, self._seed)
        later._behind = count
        return later


def _optimization(trainer: transformers.Trainer) -> dict[str, Any]:
    optimizer = trainer.optimizer
    parts = {
        "optimizer": getattr(optimizer, "optimizer", optimizer),  # without accelerate around it
        "scheduler": trainer.lr_scheduler,
        "scaler": getattr(trainer.accelerator, "scaler", None),
    }
    return {name: part for name, part in parts.items() if part is not None}
