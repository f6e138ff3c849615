"""What every kind of training refuses alike."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelkeep.errors import NotExact, StateMismatch

if TYPE_CHECKING:
    from modelkeep.training.run import Run


def refuse_or_mark(run: "Run", problems: Sequence[str], *, exact: bool) -> None:
    """Refuse what could not be resumed bit for bit, or with ``exact=False`` warn and mark the run.

    Raises:
        NotExact: naming each problem.
    """
    if not problems:
        return
    text = "\n".join(f"  - {problem}" for problem in problems)
    if exact:
        raise NotExact(f"run {run.name} could not be resumed bit for bit:\n{text}\nor pass exact=False to go on anyway")
    run.mark_not_exact(problems)
    warnings.warn(f"run {run.name} will not resume bit for bit:\n{text}", RuntimeWarning, stacklevel=3)


def another_kind(run: "Run") -> StateMismatch:
    """The error for a run whose checkpoints another kind of training has made."""
    return StateMismatch(
        f"run {run.name} has checkpoints of another kind of training; go on with that, or take another name"
    )
