"""Which of the operations that may or may not have reached the disk did: all choices where they are few."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

EXHAUSTIVE = 6
"""Up to so many free operations every subset is tried."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is tried at each moment of a crash."""

    random: int = 6
    """Subsets that are drawn."""
    single: int = 12
    """Operations that are left out, or come alone, one at a time; of more a sample is drawn."""
    tears: int = 3
    """Places at which a write under way is cut off."""


QUICK = Effort()
THOROUGH = Effort(random=20, single=40, tears=16)


def sample(items: Sequence[int], count: int, dice: random.Random) -> Sequence[int]:
    """At most ``count`` of the items, in their order."""
    return items if len(items) <= count else sorted(dice.sample(items, count))


def subsets(names: int, data: int, effort: Effort, dice: random.Random) -> Iterator[frozenset[int]]:
    """Subsets of ``names`` operations on names, numbered from 0, and ``data`` pieces of data, numbered behind them.

    None, all, names only, data only, each left out, each alone, and some that are drawn.
    """
    free = range(names + data)
    if len(free) <= EXHAUSTIVE:
        for flags in product((False, True), repeat=len(free)):
            yield frozenset(index for index in free if flags[index])
        return
    everything = frozenset(free)
    yield frozenset()
    yield everything
    yield frozenset(free[:names])
    yield frozenset(free[names:])
    some = [*sample(free[:names], effort.single, dice), *sample(free[names:], effort.single, dice)]
    for index in some:
        yield everything - {index}
        yield frozenset({index})
    for _ in range(effort.random):
        share = dice.choice((0.2, 0.5, 0.8, 0.95))
        yield frozenset(index for index in free if dice.random() < share)


def orders(flight: Sequence[int], dice: random.Random) -> Iterator[tuple[int, ...]]:
    """Which of a few calls in flight have had their effect: every subset of up to four, else some."""
    if len(flight) <= 4:
        for flags in product((False, True), repeat=len(flight)):
            yield tuple(index for index, flag in zip(flight, flags, strict=True) if flag)
        return
    yield ()
    yield tuple(flight)
    for _ in range(16):
        yield tuple(index for index in flight if dice.random() < 0.5)
