"""``run.checkpoints``: exact resume for a loop of one's own, in PyTorch, JAX or TensorFlow."""

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from modelkeep.errors import ModelkeepError, UsageError
from modelkeep.store import Checkpoint
from modelkeep.training.adoption.kinds import adopted_of
from modelkeep.training.adoption.placing import place_in_loop
from modelkeep.training.doors import door_of, homes
from modelkeep.training.interrupt import Signals, catch, leave
from modelkeep.training.plain import numbers
from modelkeep.training.policy import Every, Retain, Schedule, check_policies, every
from modelkeep.training.randomness import capture_generators, restore_generators
from modelkeep.training.refusal import another_kind

if TYPE_CHECKING:
    from modelkeep.training.run import Run


class Checkpoints:
    """The checkpoints of a loop. Made by `Run.checkpoints`, and used as a context.

    `restore` comes first, `step` after each step. Beside the state that it is given it keeps the generators that the
    process shares (Python's, numpy's, and those of the frameworks); generators of one's own are part of the state.
    """

    def __init__(self, run: "Run", when: Every | None, retain: Retain | None) -> None:
        check_policies(when, retain)
        if retain is not None:
            run.retain = retain
        self._run, self._schedule = run, Schedule(when or every())
        self._context = ExitStack()
        self._signals: Signals | None = None
        self._at = self._epoch = 0
        self._last: tuple[Any, dict[str, float]] | None = None
        """The state and the metrics of the last step."""

    def __enter__(self) -> Self:
        self._signals = self._context.enter_context(catch())
        return self

    def restore(self, state: Any) -> tuple[Any, int]:
        """Put the state of the newest checkpoint that is whole into ``state``, or keep ``state`` as the first one.

        Args:
            state: what the loop changes, whole, in dicts, lists and tuples: torch modules, optimizers, schedulers,
                scalers, generators, and what else has ``state_dict`` and ``load_state_dict``, as data loaders have;
                pytrees of jax arrays, flax (nnx) and equinox modules; TensorFlow variables and modules; Keras models
                and optimizers (built), of any backend; numpy arrays and plain values.

        Returns: the state and the number of steps done: of jax a new pytree, of all others the state that was given.
        Objects are filled where they are (an equinox module, which never changes, is made anew); plain values come
        back in the dict or list that holds them.

        Raises:
            StateMismatch: the checkpoint is of other objects; nothing was changed.
            NotExact: the machine differs from the one that wrote it in what decides the bits.
            UnsupportedState: a leaf that cannot be kept bit for bit.
            UsageError: it is called outside of its context, or twice.
        """
        if self._signals is None or self._last is not None:
            raise UsageError("restore is called once, at the start of `with run.checkpoints() as ckpt:`")
        self._run.check_fingerprint()
        resumed = self._run.resumed
        if resumed is None:
            self._save("start", state, {})
            self._last = (state, {})
            return state, 0
        checkpoint, tree = resumed
        adopted = adopted_of(tree)
        if adopted is not None:
            return self._begin_with(adopted, state, checkpoint), checkpoint.step
        if not isinstance(tree, dict) or tree.keys() != {"state", "loop"}:
            raise another_kind(self._run)
        restored = door_of(state).put(state, tree["state"])
        restore_generators(tree["loop"]["generators"])
        self._at, self._epoch = checkpoint.step, checkpoint.epoch
        self._schedule.saved(checkpoint.step)
        self._last = (restored, {})
        return restored, checkpoint.step

    def _begin_with(self, adopted: Mapping[str, Any], state: Any, checkpoint: Checkpoint) -> Any:
        """Go on from another tool's checkpoint; from here on there are checkpoints of this loop."""
        placed = place_in_loop(state, adopted)
        if placed.anew:
            text = f"{', '.join(placed.anew)} of the state is not in what was adopted, and begins anew"
            self._run.mark_not_exact([text])
            warnings.warn(f"run {self._run.name}: {text}", RuntimeWarning, stacklevel=3)
        self._at, self._epoch = checkpoint.step, checkpoint.epoch
        self._save("start", placed.state, {}, wait=True)
        self._last = (placed.state, {})
        return placed.state

    def step(self, step: int, state: Any, metrics: Mapping[str, Any] | None = None, *, epoch: int = 0) -> None:
        """Say that a step is done: log its metrics, save where that is due, and leave where a signal has asked for it.

        Args:
            step: steps done since the run began; larger than at the last call.
            state: what was given to `restore`, as it is now.
            metrics: named numbers; tensors and arrays of one value count as such. Each is read now, for which a
                device finishes the step: where that costs, give them every so many steps.
            epoch: epochs done.

        Raises:
            UsageError: a step that is not larger, or metrics that are no numbers.
            SystemExit, KeyboardInterrupt: after SIGTERM (code 75) or Ctrl-C; the state is durable.
            ModelkeepError: what went wrong with an earlier save.
        """
        if self._last is None or self._signals is None:
            raise UsageError("call restore before the first step; it says at which step the loop begins")
        if step <= self._at:
            raise UsageError(f"step {step} was told after step {self._at}; count the steps done since the run began")
        values = numbers({name: _number(value) for name, value in (metrics or {}).items()})
        ended = epoch if epoch > self._epoch else None
        self._at, self._epoch, self._last = step, epoch, (state, values)
        if values:
            self._run.log(values, step=step, epoch=epoch)
        if self._signals.pending is not None:
            self._save("signal", state, values, wait=True)
            leave(self._signals.pending)
        if self._schedule.due(step, epoch_ended=ended):
            self._save("policy", state, values)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """After the loop: the last step is saved, and all is durable. After an error what was saved is made so."""
        try:
            if error is None and self._last is not None and self._at > self._schedule.last_step:
                self._save("final", *self._last)
            self._run.wait()
            if error is None and self._signals is not None and self._signals.pending is not None:
                leave(self._signals.pending)  # it came after the last step
        except ModelkeepError as second:
            if error is None:
                raise
            error.add_note(f"saving run {self._run.name} failed too: {second}")
        finally:
            self._context.close()
            self._signals = None

    def _save(self, reason: str, state: Any, metrics: Mapping[str, float], *, wait: bool = False) -> None:
        tree = {"state": door_of(state).take(state), "loop": {"generators": capture_generators()}}
        self._run.save(tree, step=self._at, epoch=self._epoch, metrics=metrics, reason=reason, wait=wait)
        self._schedule.saved(self._at)


def _number(value: Any) -> Any:
    """A metric; a tensor of torch is detached from its graph."""
    return value.detach().cpu().numpy() if "torch" in homes(value) and hasattr(value, "detach") else value
