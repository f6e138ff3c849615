"""Random programs on a simulated machine: one seed, one program, one course of events."""

import random
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field

from .disk import Abilities
from .faults import Weights
from .installed import Proportions
from .places import BucketPlace, TwinPlace
from .power import Cut
from .world import RULES, Slot, World

_ABILITIES = (
    *[Abilities()] * 6,
    Abilities(links=False),
    Abilities(direct=False),
    Abilities(allocation=False),
    Abilities(folder_sync=False),
)
_PROPORTIONS = (
    Proportions(),
    Proportions(),
    Proportions(large=2048, buffer=8192),
    Proportions(large=6000, buffer=4096, worth_threads=1000, shard_entries=2),
    Proportions(shard_entries=1),
)
_WEIGHTS = (
    Weights(),
    Weights(gap=60),
    Weights(gap=400),
    Weights(gap=80, refuse=0, lose=0, outage=0, kill=1, cut=0),
    Weights(gap=120, refuse=1, lose=1, outage=0, kill=4, cut=8),
    Weights(gap=80, intrude=0, kill=0, cut=0),
    Weights(gap=50, refuse=0, lose=0, outage=0, kill=1, cut=1, jump=6, intrude=12),
)
_RUNS = ("cnn", "rnn", "gan")
_VERBS = {
    "save": 50, "wait": 6, "close": 4, "finish": 2, "start": 7, "fork": 7, "save_state": 8, "load": 8, "gc": 5,
    "verify": 2, "exit": 2, "kill": 2, "cut": 1, "sleep": 2,
}  # fmt: skip
"""How often each verb is drawn, relative to the others."""

_OF_RUNS = ("save", "wait", "close", "finish")
"""Those that need a run that is open."""


@dataclass(eq=False)
class Totals:
    """What was tried."""

    programs: int = 0
    verbs: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    cuts: int = 0
    images: int = 0
    seconds: float = 0.0
    """Of the processor: others may use it too."""

    def add(self, other: "Totals") -> None:
        """Count another one's too."""
        self.programs += other.programs
        self.verbs += other.verbs
        self.events += other.events
        self.calls += other.calls
        self.cuts += other.cuts
        self.images += other.images
        self.seconds += other.seconds


class Program:
    """One random program; all that it draws comes from its seed."""

    def __init__(self, seed: int, *, bucket: bool = False) -> None:
        chance = self._chance = random.Random(seed)
        self.place: TwinPlace | BucketPlace = (
            BucketPlace(chance, chance.choice(_WEIGHTS))
            if bucket
            else TwinPlace(chance, chance.choice(_WEIGHTS), abilities=chance.choice(_ABILITIES))
        )
        self.world = World(self.place)
        self._proportions = chance.choice(_PROPORTIONS)
        self._totals = Totals(programs=1)
        assert self.place.faults is not None
        self._faults = self.place.faults
        self._faults.intrude = self._intrude
        self._deep = False

    def play(self, verbs: int) -> Totals:
        """Do so many verbs, look at everything now and then, and once more at the end. Raises what was broken."""
        begun = time.process_time()
        with self.place.installed(self._proportions), warnings.catch_warnings():
            warnings.simplefilter("error")
            killed = 0
            for _ in range(verbs):
                self._one_verb(self._chance.choice(self.world.slots))
                self._after_a_cut()
                killed, before = self._faults.counts["kill"], killed
                if self._chance.random() < (0.05 if killed == before else 0.3):
                    self.world.check(whole=False)
            self._end()
        self._totals.verbs = self.world.counts
        self._totals.events = self._faults.counts
        self._totals.calls = self.place.kernel.steps
        self._totals.seconds = time.process_time() - begun
        return self._totals

    def _one_verb(self, slot: Slot) -> bool:
        verb = self._chance.choices(list(_VERBS), list(_VERBS.values()))[0]
        if verb in _OF_RUNS and not slot.opened and not (self._start(slot) and slot.opened):
            return False
        done: bool = getattr(self, f"_{verb}")(slot)
        return done

    # The verbs, each with what it needs drawn

    def _start(self, slot: Slot) -> bool:
        return self.world.start(slot, self._chance.choice(_RUNS), self._chance.choice(RULES))

    def _fork(self, slot: Slot) -> bool:
        parents = [one for one in self.world.facts.runs.values() if one.must_stay() and one.name in _RUNS]
        if not parents:
            return self._start(slot)
        parent = self._chance.choice(parents)
        step = self._chance.choice(sorted(parent.must_stay()))
        return self.world.fork(slot, parent.name, step, self._chance.choice(RULES))

    def _save(self, slot: Slot) -> bool:
        """A checkpoint or some; whoever gets an error tries again."""
        chance, name, done = self._chance, self._opened(slot), True
        for _ in range(chance.randint(1, 3)):
            serial, wait, log = self.world.facts.next_serial(), chance.random() < 0.4, chance.random() < 0.3
            done = self.world.save(slot, name, serial, wait=wait, log=log)
            while not done and name in slot.opened and chance.random() < 0.5:
                done = self.world.save(slot, name, serial, wait=wait, log=log)
        return done

    def _wait(self, slot: Slot) -> bool:
        return self.world.wait(slot, self._opened(slot))

    def _close(self, slot: Slot) -> bool:
        return self.world.close(slot, self._opened(slot))

    def _finish(self, slot: Slot) -> bool:
        return self.world.finish(slot, self._opened(slot))

    def _save_state(self, slot: Slot) -> bool:
        return self.world.save_state(slot, self._serial())

    def _load(self, slot: Slot) -> bool:
        return self.world.load(slot, self._chance.choice(_RUNS), self._chance.choice(("last", "best:loss", "step")))

    def _gc(self, slot: Slot) -> bool:
        return self.world.gc(slot)

    def _verify(self, slot: Slot) -> bool:
        return self.world.verify(slot)

    def _exit(self, slot: Slot) -> bool:
        return self.world.exit(slot)

    def _kill(self, slot: Slot) -> bool:
        self.world.kill(slot)
        return True

    def _cut(self, slot: Slot) -> bool:
        self.world.cut()
        return True

    def _sleep(self, slot: Slot) -> bool:
        self._faults.jump(1e5)
        return True

    def _opened(self, slot: Slot) -> str:
        return self._chance.choice(sorted(slot.opened))

    def _serial(self) -> int:
        facts = self.world.facts
        return (
            self._chance.randint(1, facts.serial)
            if facts.serial and self._chance.random() < 0.6
            else facts.next_serial()
        )

    def _intrude(self) -> None:
        """One verb of another process within a call of this one."""
        idle = self.world.idle()
        if self._deep or not idle:
            return
        self._deep = True
        self._faults.counts["intrusion"] += 1
        try:
            slot = self._chance.choice(idle)
            if self._chance.random() < 0.3:
                self.world.gc(slot)
            else:
                self._one_verb(slot)
        finally:
            self._deep = False

    def _after_a_cut(self) -> None:
        if not self.place.kernel.off:
            return
        self._totals.cuts += 1
        cuts = [Cut.NOTHING, Cut.SOME, Cut.SOME, self._chance.choice(list(Cut))]
        self._chance.shuffle(cuts)
        for _ in self.place.images(cuts):
            self._totals.images += 1
            self.world.check(whole=self._chance.random() < 0.3)

    def _end(self) -> None:
        """Once nothing befalls anybody any more, everybody can save, and everything is there."""
        with self._faults.paused():
            for slot in self.world.slots:
                for name in list(slot.opened):
                    self.world.wait(slot, name)  # tells what went wrong before
                    saved = self.world.save(slot, name, self.world.facts.next_serial(), wait=True, log=True)
                    assert saved or not self.place.locks, name  # or somebody has taken over
                self.world.exit(slot)
            slot = self.world.slots[0]
            assert self.world.start(slot, "last", RULES[0])
            assert self.world.save(slot, "last", self.world.facts.next_serial(), wait=True, log=True)
            self.place.kernel.clock += 1e6
            self.world.gc(slot)
            self.world.check(whole=True)
            self.world.cut()
            for _ in self.place.images([Cut.NOTHING, Cut.SOME]):
                self.world.check(whole=True)
