"""A contest: several ways to do one thing, measured in paired rounds whose order is rotated.

A disk and a page cache remember what came before, and a machine has other work. So every round measures every
contender once, each round begins with another one, and what is reported is the median of ratios *within* rounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles


@dataclass(frozen=True, slots=True)
class Contender:
    """One way. ``measure()`` does it once and returns what it cost.

    ``kind``: ``"limit"`` (what the machine can do), ``"ours"``, ``"peer"`` or ``"control"``. ``every``: takes part in
    each so many rounds; slow peers need not run in all of them.
    """

    name: str
    kind: str
    measure: Callable[[], float]
    every: int = 1


@dataclass(slots=True)
class Result:
    """What a contender cost in each round that it took part in: round -> cost."""

    contender: Contender
    costs: dict[int, float] = field(default_factory=dict)

    @property
    def middle(self) -> float:
        """The median cost."""
        return median(self.costs.values())

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles as a part of the median: what noise alone does."""
        values = list(self.costs.values())
        if len(values) < 2 or self.middle == 0:
            return 0.0
        low, _, high = quantiles(values, n=4, method="inclusive")
        return (high - low) / 2 / abs(self.middle)

    def ratio(self, base: "Result") -> float:
        """The median, over the rounds that both took part in, of this cost divided by that of ``base``."""
        shared = self.costs.keys() & base.costs.keys()
        return median(self.costs[turn] / base.costs[turn] for turn in shared)


def hold(contenders: Sequence[Contender], rounds: int, *, told: Callable[[str], None] = lambda _: None) -> list[Result]:
    """Measure every contender in ``rounds`` rounds, after one round that does not count and warms everything up."""
    results = [Result(contender) for contender in contenders]
    for turn in range(-1, rounds):
        shift = turn % len(results)
        # every second round runs backwards, so that no contender always follows the same one
        order = results[shift:] + results[:shift]
        for result in order if turn % 2 == 0 else reversed(order):
            # the first round, that counts, is everybody's: each ratio needs a pair
            if turn >= 0 and turn % result.contender.every:
                continue
            told(f"round {turn + 1} of {rounds}: {result.contender.name}")
            cost = result.contender.measure()
            if turn >= 0:
                result.costs[turn] = cost
    return results


def fastest(results: Sequence[Result], kind: str) -> Result:
    """The one of a kind with the lowest median."""
    return min((result for result in results if result.contender.kind == kind), key=lambda result: result.middle)
