"""The simple model: what was promised to whom, and what each state is. No files, no modelkeep."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_BASE = np.arange(700, dtype="f4")


def tree(serial: int) -> dict[str, Any]:
    """State number ``serial``: two parts that change now and then, and two that always do."""
    return {
        "base": _BASE + serial // 7,
        "slow": np.full(150, serial // 4, "i8"),
        "head": [np.full(40 + serial % 37, serial, "f4"), np.arange(serial % 5, dtype="u1")],
        "serial": serial,
    }


def is_tree(loaded: Any, serial: int) -> bool:
    """Whether what was loaded is bit for bit state number ``serial``."""
    wanted = tree(serial)
    return (
        isinstance(loaded, dict)
        and loaded.keys() == wanted.keys()
        and loaded["serial"] == serial
        and _same(loaded["base"], wanted["base"])
        and _same(loaded["slow"], wanted["slow"])
        and len(loaded["head"]) == 2
        and all(map(_same, loaded["head"], wanted["head"]))
    )


def _same(one: Any, other: Any) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def loss(serial: int) -> float:
    """The metric of a state; no two have the same."""
    return float((serial * 7919) % 10007) / 10007


@dataclass(frozen=True, slots=True)
class Rule:
    """What retention promises to keep: the last ones, the first of each so many steps, the best one."""

    last: int = 3
    every: int | None = None
    best: bool = False


@dataclass(eq=False)
class RunFacts:
    """What was promised of one run."""

    name: str
    rule: Rule
    started: bool = False
    """Whether some start was acknowledged."""
    acked: set[int] = field(default_factory=set)
    """The serials of the checkpoints that are durable, so it was said."""
    maybe: set[int] = field(default_factory=set)
    """The serials of those of which nothing was said, or an error."""
    rows: set[int] = field(default_factory=set)
    """The serials of the metric rows that are durable."""
    summaries: list[int] = field(default_factory=list)
    """What `finish` may have said last."""

    def tried(self, serials: Iterable[int]) -> None:
        """These are under way."""
        self.maybe |= set(serials) - self.acked

    def acknowledged(self, serials: Iterable[int]) -> None:
        """These are durable."""
        self.acked |= set(serials)
        self.maybe -= self.acked

    def newest(self) -> int:
        """The newest acknowledged serial, -1 for none."""
        return max(self.acked, default=-1)

    def must_stay(self) -> set[int]:
        """The acknowledged serials that no retention may have let go, whatever became of those under way."""
        every = self.acked | self.maybe
        newest = sorted(every)[-self.rule.last :]
        kept = {serial for serial in newest if serial in self.acked}
        if self.rule.best and every:
            kept |= {min(every, key=loss)} & self.acked
        if self.rule.every is not None:
            firsts: dict[int, int] = {}
            for serial in sorted(every):
                firsts.setdefault(serial // self.rule.every, serial)
            kept |= {serial for multiple, serial in firsts.items() if multiple} & self.acked
        return kept


@dataclass(eq=False)
class Facts:
    """What was promised of a keep."""

    made: bool = False
    """Whether some opening was followed by something durable."""
    states: dict[str, int] = field(default_factory=dict)
    """The serial of each acknowledged state, by its id."""
    runs: dict[str, RunFacts] = field(default_factory=dict)
    serial: int = 0

    def next_serial(self) -> int:
        """A number that no state has had."""
        self.serial += 1
        return self.serial
