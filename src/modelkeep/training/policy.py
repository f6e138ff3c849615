"""When a training is saved, and which of its checkpoints stay."""

import math
import operator
import time
from dataclasses import dataclass

from modelkeep.errors import UsageError
from modelkeep.store.retention import Best, Retain

__all__ = ["Best", "Every", "Retain", "Schedule", "best", "check_policies", "every", "retain"]


@dataclass(frozen=True, slots=True)
class Every:
    """When a checkpoint is due: when any of the three says so. Make one with `every`."""

    steps: int | None = None
    epochs: int | None = None
    seconds: float | None = None

    def due(self, step: int, epoch_ended: int | None, now: float, last_step: int, last_time: float) -> bool:
        """Whether to save now.

        Args:
            step: steps done since the run began.
            epoch_ended: how many epochs are done, when one has just ended; else None.
            now, last_time: seconds of the same clock. One that jumped back cannot tell how long it has been, so a
                save is due.
            last_step: the step of the last save.

        Steps count on a grid from 0, not from the last save: a resumed training saves where the other would have.

        >>> Every(steps=10).due(step=21, epoch_ended=None, now=0, last_step=19, last_time=0)
        True
        """
        by_steps = self.steps is not None and step // self.steps > last_step // self.steps
        by_epochs = self.epochs is not None and epoch_ended is not None and epoch_ended % self.epochs == 0
        by_time = self.seconds is not None and not 0 <= now - last_time < self.seconds
        return by_steps or by_epochs or by_time


class Schedule:
    """When the next save of a training is due, by its policy and the last save."""

    def __init__(self, when: Every) -> None:
        self._when = when
        self.saved(0)

    def saved(self, step: int) -> None:
        """A checkpoint of ``step`` is made, or the one that a training goes on from."""
        self._last_step, self._last_time = step, time.monotonic()

    @property
    def last_step(self) -> int:
        """The step of the last save."""
        return self._last_step

    def due(self, step: int, *, epoch_ended: int | None = None) -> bool:
        """Whether to save now; see `Every.due`."""
        return self._when.due(step, epoch_ended, time.monotonic(), self._last_step, self._last_time)


def every(steps: int | None = None, epochs: int | None = None, seconds: float | None = None) -> Every:
    """Say when a training is saved: whenever one of the three is due. With none: each epoch and every five minutes.

    Raises:
        UsageError: a value that is not above zero.

    >>> every(steps=500, seconds=60)
    Every(steps=500, epochs=None, seconds=60.0)
    >>> every()
    Every(steps=None, epochs=1, seconds=300.0)
    """
    if steps is None and epochs is None and seconds is None:
        return Every(epochs=1, seconds=300.0)
    return Every(
        steps=_count("every(steps=...)", steps),
        epochs=_count("every(epochs=...)", epochs),
        seconds=_seconds(seconds),
    )


def retain(last: int = 3, every_steps: int | None = None, best: Best | None = None) -> Retain:
    """Say which checkpoints stay: those that any of the three keeps; the newest stays always.

    Args:
        last: this many of the newest, at least 1.
        every_steps: the first at or after each multiple of this many steps.
        best: the best ones by a metric; of `best`.

    Raises:
        UsageError: a number that is not above zero, or a ``best`` that is no `Best`.

    >>> retain(last=2, best=best("val_loss"))
    Retain(last=2, every_steps=None, best=Best(metric='val_loss', mode='min', keep=1))
    """
    if best is not None and not isinstance(best, Best):
        raise UsageError(f"retain(best=...) takes modelkeep.best(...), not {best!r:.80}; try best({str(best)!r:.80})")
    return Retain(
        last=_count("retain(last=...)", last) or 1,
        every_steps=_count("retain(every_steps=...)", every_steps),
        best=best,
    )


def best(metric: str, mode: str = "min", keep: int = 1) -> Best:
    """Say which metric makes a checkpoint good, and how many of the best stay. NaN is never best.

    Args:
        metric: its name, such as ``"val_loss"``.
        mode: ``"min"`` where less is better, ``"max"`` where more is.
        keep: how many, at least 1.

    Raises:
        UsageError: an empty name, another mode, or a number that is not above zero.

    >>> best("val_accuracy", mode="max", keep=2)
    Best(metric='val_accuracy', mode='max', keep=2)
    """
    if type(metric) is not str or not metric:
        raise UsageError(f"best(...) takes the name of a metric, such as 'val_loss', not {metric!r:.80}")
    if mode in ("min", "max"):
        return Best(metric=metric, mode=mode, keep=_count("best(keep=...)", keep) or 1)
    raise UsageError(f"best(mode=...) is 'min' or 'max', not {mode!r:.80}")


def check_policies(checkpoint: object, retain: object) -> None:
    """Refuse what is no policy before anything begins. Raises UsageError."""
    if checkpoint is not None and not isinstance(checkpoint, Every):
        raise UsageError(f"checkpoint= takes modelkeep.every(steps=, epochs=, seconds=), not {checkpoint!r:.80}")
    if retain is not None and not isinstance(retain, Retain):
        raise UsageError(f"retain= takes modelkeep.retain(last=, every_steps=, best=), not {retain!r:.80}")


def _count(what: str, value: int | None) -> int | None:
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise UsageError(f"{what} takes a whole number above zero, not {value!r:.80}")
    return number


def _seconds(value: float | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if isinstance(value, (bool, str)) or not 0 < number < math.inf:
        raise UsageError(f"every(seconds=...) takes a number of seconds above zero, not {value!r:.80}")
    return number
