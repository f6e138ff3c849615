"""How much is measured."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """``size``: bytes of a state. ``rounds``: that count. ``told``: is told what is being measured."""

    size: int
    rounds: int
    quick: bool
    told: Callable[[str], None]

    @property
    def peers_every(self) -> int:
        """Slow peers take part in each so many rounds."""
        return 1 if self.rounds < 6 else 3

    def steps(self, full: int, quick: int) -> int:
        """A number of steps: ``full``, or ``quick`` in a quick run."""
        return quick if self.quick else full
