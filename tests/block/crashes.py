"""Which images a disk may hold after a power cut: all writes before a flush, and any of those between it and the cut.

A crash is chosen by a seeded generator from a log, so that any one can be built again from its description.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .log import Event, Flush, Mark, Write

_SUBSETS = 6
"""Random subsets that are drawn for each moment of a cut."""


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Bytes of the event at ``index`` that reached the disk, from ``first`` to ``past``."""

    index: int
    first: int
    past: int


@dataclass(frozen=True, slots=True)
class Crash:
    """One image: everything before the event at ``flush``, then ``parts``; the program saw what is before ``cut``."""

    flush: int
    cut: int
    parts: tuple[Part, ...]
    kind: str
    """How the parts were chosen: ``none``, ``all``, ``prefix``, ``subset`` or ``torn``."""

    def marks(self, log: Sequence[Event]) -> list[str]:
        """What the program had said when the power was cut."""
        return [event.text for event in log[: self.cut] if isinstance(event, Mark)]


def sample(log: Sequence[Event], count: int, seed: int, *, sector: int) -> list[Crash]:
    """``count`` different crashes in the order of their flushes, or all that there are.

    Each interval between two flushes gives its share, and each kind of crash within it. ``sector``: the bytes that the
    disk writes whole; a cut tears a longer write at any of these.
    """
    drawn = random.Random(seed)
    chooser = _Chooser(log, sector, drawn)
    queues = [chooser.crashes(flush, past) for flush, past in _intervals(log)]
    chosen: list[Crash] = []
    while queues and len(chosen) < count:
        drawn.shuffle(queues)
        chosen += [queue.pop(0) for queue in queues][: count - len(chosen)]
        queues = [queue for queue in queues if queue]
    return sorted(chosen, key=lambda crash: (crash.flush, crash.cut, crash.kind, crash.parts))


def _intervals(log: Sequence[Event]) -> Iterator[tuple[int, int]]:
    """Each flush and the one after it (or the end), of those between which anything happened."""
    flushes = [index for index, event in enumerate(log) if isinstance(event, Flush)]
    for flush, past in zip(flushes, [*flushes[1:], len(log)], strict=True):
        if past > flush + 1:
            yield flush, past


class _Chooser:
    """Chooses crashes between two flushes."""

    def __init__(self, log: Sequence[Event], sector: int, drawn: random.Random) -> None:
        self._log = log
        self._sector = sector
        self._drawn = drawn

    def crashes(self, flush: int, past: int) -> list[Crash]:
        """The different crashes of one interval, in random order with the kinds mixed."""
        found: dict[tuple[int, tuple[Part, ...]], Crash] = {}
        for cut in self._cuts(flush, past):
            for crash in self._crashes(flush, cut):
                # Equal images of which the program saw equal marks are one; the later cut adds nothing.
                found.setdefault((len(crash.marks(self._log)), crash.parts), crash)
        return list(self._mixed(list(found.values())))

    def _mixed(self, crashes: list[Crash]) -> Iterator[Crash]:
        """Each kind as likely as the others as long as there are any: most can be torn, few are whole."""
        self._drawn.shuffle(crashes)
        kinds: dict[str, list[Crash]] = {}
        for crash in crashes:
            kinds.setdefault(crash.kind, []).append(crash)
        while kinds:
            kind = self._drawn.choice(sorted(kinds))
            yield kinds[kind].pop()
            if not kinds[kind]:
                del kinds[kind]

    def _cuts(self, flush: int, past: int) -> list[int]:
        """The end of the interval, each moment right behind a mark, and one at random."""
        marks = [index + 1 for index in range(flush, past) if isinstance(self._log[index], Mark)]
        return [past, *marks, self._drawn.randint(flush + 1, past)]

    def _crashes(self, flush: int, cut: int) -> Iterator[Crash]:
        loose = [_whole(self._log, index) for index in range(flush, cut) if isinstance(self._log[index], Write)]
        yield Crash(flush, cut, (), "none")
        if not loose:
            return
        yield Crash(flush, cut, tuple(loose), "all")
        prefix = loose[: self._drawn.randint(1, len(loose))]
        yield Crash(flush, cut, tuple(prefix), "prefix")
        for _ in range(_SUBSETS):
            subset = [part for part in loose if self._drawn.random() < 0.5]
            yield Crash(flush, cut, tuple(subset), "subset")
            torn = [piece for part in loose if self._drawn.random() < 0.7 for piece in self._torn(part)]
            yield Crash(flush, cut, tuple(torn), "torn")

    def _torn(self, part: Part) -> Iterator[Part]:
        """What is left of a write that was under way: its sectors before or behind a cut, or without some between."""
        sectors = part.past // self._sector
        if sectors < 2:
            yield part
            return
        first, past = sorted((self._drawn.randint(0, sectors), self._drawn.randint(0, sectors)))
        first = self._drawn.choice((0, first))
        if first > 0:
            yield Part(part.index, 0, first * self._sector)
        if past < sectors:
            yield Part(part.index, past * self._sector, part.past)


def _whole(log: Sequence[Event], index: int) -> Part:
    event = log[index]
    assert isinstance(event, Write), "only writes have bytes"
    return Part(index, 0, len(event.data))
