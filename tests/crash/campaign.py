"""All crash states of a recording under a model, each looked at once, and judged by what was said before the crash."""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from . import ext4, kill, weak
from .choices import Effort
from .disk import State, Tree
from .operations import Trace
from .recording import Recording
from .shelf import Shelf

Seen = TypeVar("Seen")

SEED = 1


class Model(Protocol):
    """What may be on a disk after each moment of a trace."""

    def __call__(self, trace: Trace, before: Tree, effort: Effort, seed: int) -> Iterator[tuple[int, State]]: ...


MODELS: dict[str, Model] = {"kill": kill.states, "ext4": ext4.states, "weak": weak.states}


@dataclass
class Outcome:
    """What became of the states; each distinct one counts once."""

    states: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """States by what is wrong with them: the first word of what was said of them."""
    told: list[str] = field(default_factory=list)
    """What was said of them: the moment of the crash, and the fault."""


@dataclass(frozen=True)
class Campaign:
    """How states are looked at.

    ``look`` may use a state up, and tells what it holds; ``judge`` tells what is wrong with that after what was said,
    in words of which the first, before a colon, names the kind.
    """

    look: Callable[[Path], object]
    judge: Callable[..., list[str]]
    copied: bool = False
    """Whether ``look`` may write into files."""
    evidence: Path | None = None
    """Where the first state that is wrong is left."""

    def run(self, recording: Recording, model: str, effort: Effort, *, at_most: int | None = None) -> Outcome:
        """Look at every distinct state, or at a sample of ``at_most`` that is drawn with a fixed seed."""
        chosen = None if at_most is None else _sample(recording, model, effort, at_most)
        outcome, seen, judged = Outcome(), dict[str, object](), dict[str, set[int]]()
        blamed: dict[str, set[str]] = {}
        shelf = Shelf()
        try:
            for moment, state in _states(recording, model, effort):
                if chosen is not None and state.key not in chosen:
                    continue
                if state.key not in seen:
                    with shelf.placed(state, copied=self.copied) as folder:
                        seen[state.key] = self.look(folder)
                said = recording.trace.said_by(moment)
                if said in judged.setdefault(state.key, set()):
                    continue
                judged[state.key].add(said)
                texts = [mark.text for mark in recording.trace.marks[:said]]
                for fault in self.judge(seen[state.key], texts):
                    if not outcome.told:
                        self._keep_evidence(shelf, state)
                    blamed.setdefault(state.key, set()).add(fault.split(":")[0])
                    outcome.told.append(f"{model}, {_where(recording, moment)}: {fault}")
        finally:
            shelf.close()
        outcome.states = len(seen)
        outcome.faults = Counter(kind for kinds in blamed.values() for kind in kinds)
        return outcome

    def _keep_evidence(self, shelf: Shelf, state: State) -> None:
        if self.evidence is not None:
            with shelf.placed(state, copied=True) as folder:
                shutil.copytree(folder, self.evidence, dirs_exist_ok=True)


def _states(recording: Recording, model: str, effort: Effort) -> Iterator[tuple[int, State]]:
    return MODELS[model](recording.trace, recording.before, effort, SEED)


def _sample(recording: Recording, model: str, effort: Effort, count: int) -> set[str]:
    keys = list(dict.fromkeys(state.key for _, state in _states(recording, model, effort)))
    return set(keys if len(keys) <= count else random.Random(SEED).sample(keys, count))


def _where(recording: Recording, moment: int) -> str:
    """The moment of a crash, as somebody finds it again: how many calls had returned, and the last of them."""
    done: Sequence[object] = [one for one in recording.trace.operations if one.ended <= moment]
    return f"after {len(done)} of {len(recording.trace.operations)} calls, the last {repr(done[-1:])[:300]}"
