"""What the marks of a program promise: which checkpoints and states a disk must hold, whatever happened to it.

- ``saving RUN STEP``, ``saved RUN STEP``: a checkpoint is begun (with the retention that follows it), and acknowledged;
- ``keeping STEP``, ``kept STEP ID``: the same for a state that is kept by its id;
- everything else promises nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .program import KEPT


@dataclass(slots=True)
class Expected:
    """What was acknowledged, at one moment."""

    saved: dict[str, list[int]] = field(default_factory=dict)
    """The steps that were acknowledged, by run."""
    begun: dict[str, int] = field(default_factory=dict)
    """The newest step that was begun, by run."""
    kept: dict[str, int] = field(default_factory=dict)
    """The step of each state that was acknowledged, by its id."""

    @classmethod
    def of(cls, marks: Iterable[str]) -> "Expected":
        """What follows from marks in their order."""
        expected = cls()
        for mark in marks:
            match mark.split():
                case ["saving", run, step]:
                    expected.begun[run] = int(step)
                case ["saved", run, step]:
                    expected.saved.setdefault(run, []).append(int(step))
                case ["kept", step, snapshot]:
                    expected.kept[snapshot] = int(step)
        return expected

    def required(self, run: str) -> set[int]:
        """The steps that must be there: acknowledged, and not let go by the retention of a save that was begun."""
        saved = self.saved.get(run, [])
        with_begun = sorted({*saved, self.begun[run]}) if run in self.begun else saved
        return {step for step in saved if step in with_begun[-KEPT:]}

    def newest(self, run: str) -> int:
        """The newest step that was acknowledged; 0 when there was none."""
        return max(self.saved.get(run, []), default=0)
