"""Hypothesis drives a keep against the simple model, in every kind of place: memory, a folder, a bucket, the twin."""

import random
import tempfile
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from .kernel import Gone
from .places import BucketPlace, LocalPlace, MemoryPlace, TwinPlace
from .power import Cut
from .world import RULES, Slot, World

RUNS = st.sampled_from(["cnn", "rnn"])
PROCESSES = st.integers(0, 2)


class Keeping(RuleBasedStateMachine):
    """Saves, loads, retention, collections, deaths in any call and new processes."""

    def make_place(self, chance: random.Random) -> Any:
        raise NotImplementedError

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.stack = ExitStack()
        self.stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        self.place = self.make_place(random.Random(seed))
        self.stack.enter_context(self.place.installed())
        self.world = World(self.place)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            for slot in self.world.slots:
                assert self.world.exit(slot) or self.world.counts["close: fenced"]  # where there are no locks
            self.world.check(whole=True)
        finally:
            self.stack.close()

    def slot(self, number: int) -> Slot:
        return self.world.slots[number % len(self.world.slots)]

    @rule(process=PROCESSES, again=st.integers(0, 3))
    def save_state(self, process: int, again: int) -> None:
        facts = self.world.facts
        self.world.save_state(self.slot(process), max(1, facts.serial - again) if again else facts.next_serial())

    @rule(process=PROCESSES, name=RUNS, retention=st.sampled_from(RULES))
    def start(self, process: int, name: str, retention: Any) -> None:
        self.world.start(self.slot(process), name, retention)

    @precondition(lambda self: any(one.must_stay() for one in self.world.facts.runs.values()))
    @rule(process=PROCESSES, which=st.integers(0, 100), retention=st.sampled_from(RULES))
    def fork(self, process: int, which: int, retention: Any) -> None:
        known = [(one.name, step) for one in self.world.facts.runs.values() for step in sorted(one.must_stay())]
        self.world.fork(self.slot(process), *known[which % len(known)], retention)

    @precondition(lambda self: any(slot.opened for slot in self.world.slots))
    @rule(which=st.integers(0, 5), wait=st.booleans(), log=st.booleans(), times=st.integers(1, 4))
    def save(self, which: int, wait: bool, log: bool, times: int) -> None:
        slot, name = self.opened(which)
        for _ in range(times):
            self.world.save(slot, name, self.world.facts.next_serial(), wait=wait, log=log)

    @precondition(lambda self: any(slot.opened for slot in self.world.slots))
    @rule(which=st.integers(0, 5), verb=st.sampled_from(["wait", "finish", "close"]))
    def settle(self, which: int, verb: str) -> None:
        getattr(self.world, verb)(*self.opened(which))

    @rule(process=PROCESSES, name=RUNS, how=st.sampled_from(["last", "best:loss", "step"]))
    def load(self, process: int, name: str, how: str) -> None:
        self.world.load(self.slot(process), name, how)

    @rule(process=PROCESSES, later=st.sampled_from([0.0, 1e5]))
    def collect(self, process: int, later: float) -> None:
        self.place.kernel.clock += later
        self.world.gc(self.slot(process))

    @rule(process=PROCESSES)
    def die(self, process: int) -> None:
        self.world.kill(self.slot(process))
        self.world.check(whole=False)

    @rule()
    def look(self) -> None:
        self.world.check(whole=True)

    def opened(self, which: int) -> tuple[Slot, str]:
        known = [(slot, name) for slot in self.world.slots for name in sorted(slot.opened)]
        return known[which % len(known)]


class InMemory(Keeping):
    def make_place(self, chance: random.Random) -> Any:
        return MemoryPlace(chance)


class _Mortal(Keeping):
    """A place whose calls can be counted, and the process that makes one of them killed."""

    @rule(after=st.integers(1, 150))
    def die_soon(self, after: int) -> None:
        """Whoever makes the call dies in it."""
        kernel = self.place.kernel

        def now(verb: str, arguments: tuple[Any, ...]) -> Any:
            kernel.kill(kernel.process)
            raise Gone

        kernel.on_event, kernel.next_event = now, kernel.steps + after

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.place.kernel.next_event = -1
        super().teardown()


class InAFolder(_Mortal):
    def make_place(self, chance: random.Random) -> Any:
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        return LocalPlace(Path(folder), chance)


class InABucket(_Mortal):
    def make_place(self, chance: random.Random) -> Any:
        return BucketPlace(chance)


class OnTheTwin(_Mortal):
    def make_place(self, chance: random.Random) -> Any:
        return TwinPlace(chance)

    @rule(cuts=st.lists(st.sampled_from(list(Cut)), min_size=1, max_size=4))
    def lose_power(self, cuts: list[Cut]) -> None:
        self.world.cut()
        for _ in self.place.images(cuts):
            self.world.check(whole=True)


@pytest.mark.parametrize("machine", [InMemory, InAFolder, InABucket, OnTheTwin])
def test_a_keep_does_what_the_simple_model_says(machine: type[Keeping]) -> None:
    _drive(machine, 25, 20)


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("machine", [InMemory, InAFolder, InABucket, OnTheTwin])
def test_a_keep_does_what_the_simple_model_says_for_long(machine: type[Keeping]) -> None:
    _drive(machine, 1500, 50)


def _drive(machine: type[Keeping], examples: int, steps: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    options = settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(machine, settings=options)
