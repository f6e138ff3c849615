"""``Checkpoint``: the callback that saves a training of Lightning at any step, and goes on from there bit for bit."""

import os
from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from modelkeep.errors import UsageError
from modelkeep.training.interrupt import Signals, catch, leave
from modelkeep.training.lightning.source import Source
from modelkeep.training.lightning.state import Continued, State, capture, opened, put_extra
from modelkeep.training.policy import Every, Retain, Schedule, check_policies, every
from modelkeep.training.randomness import restore_generators
from modelkeep.training.refusal import another_kind, refuse_or_mark
from modelkeep.training.run import Run
from modelkeep.training.torch_batches import Batches


class Checkpoint(Callback):
    """Save while Lightning trains and go on from there: the same script, run again, ends with the same bits.

    Pass it to ``Trainer(callbacks=[...])``, and no ``ckpt_path`` to ``fit``, but for a first start that takes over a
    checkpoint of Lightning (the run is marked: what that lacks begins anew). Beside what Lightning's own checkpoints
    hold it keeps the random generators, what ``self.log`` and torchmetrics have accumulated, the metrics that
    schedulers watch, and the place in the data: a ``DataLoader`` (any sampler, workers, augmentations in the dataset
    and in ``collate_fn``, an ``IterableDataset``) is read from the batch that is next, in an order that follows from
    the seed of the run. It saves before a step, where no validation has just run and no gradients are being
    accumulated, and before each epoch.

    Args:
        run: the run of ``keep.run(...)``, or a name: a run in the default keep (``$MODELKEEP_KEEP``, else ``./keep``).
        checkpoint: when to save, of ``modelkeep.every``; by default each epoch and every five minutes. Steps are those
            of the optimizer.
        retain: which checkpoints stay, of ``modelkeep.retain``; by default the last three.
        exact: False goes on where the resume could not be bit for bit, and marks the run.

    Raises:
        NotExact: when ``fit`` begins: the data, or a setting, cannot be resumed bit for bit; each with its fix.
        StateMismatch: when ``fit`` begins: the run has checkpoints of another kind of training.
        UsageError: when ``fit`` begins: several processes or devices train, or ``ckpt_path`` was given to a run that
            has checkpoints of its own.
        UnsupportedState: a callback's ``state_dict`` holds what is no tensor and no plain value.

    The final state is durable when ``fit`` returns; a finished run trains nothing and has its final weights put back.
    SIGTERM saves the step and ends a script with code 75; after Ctrl-C, saved too, Lightning ends it with 1.
    """

    def __init__(
        self, run: Run | str, *, checkpoint: Every | None = None, retain: Retain | None = None, exact: bool = True
    ) -> None:
        super().__init__()
        check_policies(checkpoint, retain)
        self._run = Run.of(run, exact=exact)
        if retain is not None:
            self._run.retain = retain
        self._schedule, self._exact = Schedule(checkpoint or every()), exact
        self._signals = Signals()
        self._context = ExitStack()
        self._saved: State | None = None
        """What is still to be put back."""
        self._inside = False
        self._validated = False

    # What Lightning calls

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.world_size > 1:
            raise UsageError(f"{trainer.world_size} processes train; modelkeep saves a training of one process")
        self._run = Run.of(self._run)
        self._run.check_fingerprint(exact=self._exact)
        others = [one for one in trainer.callbacks if one is not self and not isinstance(one, _First)]
        trainer.callbacks = [_First(self), *others, self]
        trainer.fit_loop._data_source = Source(trainer.fit_loop._data_source, lambda data: self._wrapped(trainer, data))
        if self._run.resumed is not None:
            self._begin_to_restore(trainer, *self._run.resumed)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is not None:
            self._begin_with(str(trainer.ckpt_path))
        self._signals = self._context.enter_context(catch())
        if self._saved is not None:
            put_extra(trainer, self._saved["extra"])
            if not self._inside:
                for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop):
                    loop._restarting = False  # an epoch begins: nothing of it was done before

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        results = trainer.fit_loop.epoch_loop._results
        if isinstance(results, Continued):
            results.forget()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._context.close()
        self._log(trainer)
        self._save(trainer, "final", inside=False, wait=True)
        self._run.finish({"epochs": trainer.current_epoch, "stopped": bool(trainer.should_stop)})

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._context.close()

    # What `_First` calls, before any other callback

    def before_epoch(self, trainer: Trainer) -> None:
        """All of the epoch before is done."""
        if self._saved is not None:
            self._finish_restoring()
            return
        self._validated = False
        epochs = trainer.current_epoch
        if epochs:
            self._log(trainer)
        pending = self._signals.pending
        if self._run.resumed is None:
            self._save(trainer, "start", inside=False, wait=True)
        elif pending is not None or self._schedule.due(trainer.global_step, epoch_ended=epochs or None):
            self._save(trainer, "signal" if pending else "policy", inside=False, wait=pending is not None)
        self._leave_if(pending)

    def before_step(self, trainer: Trainer, batch: int) -> None:
        """All that follows from the batch before is done, but a validation could not be told from one to come."""
        if self._saved is not None:
            self._finish_restoring()
            trainer.fit_loop._restarting = False  # it would leave out what schedulers do at the end of this epoch
            return
        validated, self._validated = self._validated, False
        if not batch or validated or batch % trainer.accumulate_grad_batches:
            return
        pending = self._signals.pending
        if pending is not None or self._schedule.due(trainer.global_step):
            self._save(trainer, "signal" if pending else "policy", inside=True, wait=pending is not None)
            self._leave_if(pending)

    # How it goes on

    def _begin_to_restore(self, trainer: Trainer, checkpoint: Any, tree: State) -> None:
        """Hand Lightning its part before it looks for a file; the rest follows when the training begins."""
        if "lightning" not in tree:
            raise another_kind(self._run)
        self._saved = {**opened(tree), "generators": tree["generators"]}
        self._inside = bool(tree["extra"]["inside"])
        trainer._checkpoint_connector._loaded_checkpoint = self._saved["lightning"]
        trainer.should_stop = self._saved["extra"]["stop"]
        self._schedule.saved(checkpoint.step)

    def _begin_with(self, path: str) -> None:
        """Lightning has loaded a file: fine for a first start alone."""
        if self._saved is not None:
            raise UsageError(
                f"fit was given ckpt_path={path!r}, and run {self._run.name} goes on from its own checkpoint; leave "
                "ckpt_path out, or take another name"
            )
        self._run.mark_not_exact([f"begun with Lightning's checkpoint {os.path.basename(path)}"])

    def _finish_restoring(self) -> None:
        """Last of all, when nothing else draws any more."""
        assert self._saved is not None
        restore_generators(self._saved["generators"])
        self._saved = None

    def _wrapped(self, trainer: Trainer, data: Any) -> Any:
        """The training data from the place where the training is; what cannot be opened there is refused."""
        problems = []
        if isinstance(data, DataLoader):
            data = Batches(data, self._run.seed, lambda: _place(trainer))
            problems += data.passes.problems()
        else:
            problems.append(f"the training data are of {type(data).__name__}; one torch DataLoader can be resumed")
        if getattr(trainer, "_val_check_time_interval", None) is not None:
            problems.append("val_check_interval is a time, and a clock does not repeat itself; count batches")
        refuse_or_mark(self._run, problems, exact=self._exact)
        return data

    def _save(self, trainer: Trainer, reason: str, *, inside: bool, wait: bool = False) -> None:
        self._run.wait_for_room()
        tree = capture(trainer, inside=inside)
        tree["extra"]["inside"] = inside
        step, epoch = trainer.global_step, trainer.current_epoch
        self._run.save(tree, step=step, epoch=epoch, metrics=_numbers(trainer), reason=reason, wait=wait)
        self._schedule.saved(step)

    def _log(self, trainer: Trainer) -> None:
        values = _numbers(trainer)
        if values:
            self._run.log(values, step=trainer.global_step, epoch=trainer.current_epoch - 1)

    def _leave_if(self, signal: int | None) -> None:
        if signal is not None:
            self._run.close()
            leave(signal)


class _First(Callback):
    """The callback in front of all others: what they do at a start is then not done when it is captured."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._checkpoint = checkpoint

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._checkpoint.before_epoch(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._checkpoint.before_step(trainer, batch_idx)


def _place(trainer: Trainer) -> tuple[int, int]:
    """The epoch, and the batch of it that is next."""
    loop = trainer.fit_loop
    return loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.ready


def _numbers(trainer: Trainer) -> dict[str, float]:
    metrics = {name: value for name, value in trainer.callback_metrics.items() if value.numel() == 1}
    return {name: float(value) for name, value in metrics.items() if torch.is_floating_point(value)}
