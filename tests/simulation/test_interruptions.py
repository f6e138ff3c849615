"""A fork and a retention: one is stopped in each of its calls in turn, while the other does all of its work."""

import random
from typing import Any

import pytest

from modelkeep.errors import Conflict, Damaged, NotFound
from modelkeep.store import Retain

from .facts import is_tree, tree
from .places import TwinPlace

PAIRS = [
    ("retain_one", "fork"),
    ("fork", "retain_one"),
    ("retain_one", "commit_late"),
    ("commit_late", "retain_one"),
]


class Scene:
    """A run with four checkpoints, and another process that may fork the oldest before the run lets it go."""

    def __init__(self) -> None:
        self.place = TwinPlace(random.Random(3))
        self.forked = self.committed = False

    def build(self) -> None:
        self.run = self.place.open().run("cnn", capture=False)
        self.run.retain = Retain(last=4)
        for serial in (10, 20, 30, 40):  # none has a piece of another
            self.run.save(tree(serial), step=serial, epoch=0, wait=True)
        self.owner, self.forker = self.place.kernel.process, self.place.spawn("forker")
        with self.place.being(self.forker):
            self.other = self.place.open()
            self.donor = self.other.snapshot("run:cnn@10")
            self.late = self.other.store.run("late").start_attempt({})

    def retain_one(self) -> None:
        with self.place.being(self.owner):
            self.run.retain = Retain(last=1)
            self.run.save(tree(50), step=50, epoch=0, wait=True)

    def fork(self) -> None:
        with self.place.being(self.forker):
            try:
                with self.other.run("fork", capture=False, fork="run:cnn@10") as fork:
                    fork.save(tree(11), step=11, epoch=0, wait=True)
            except (NotFound, Damaged, Conflict):
                return  # it was let go before it was forked
            self.forked = True

    def commit_late(self) -> None:
        """A fork that has read its parent long ago, and goes on to save with its pieces only now."""
        store = self.other.store
        with self.place.being(self.forker):
            snapshot = store.save(tree(10), meta={"kind": "checkpoint", "run": "late", "step": 10}, donor=self.donor)
            store.run("late").commit_checkpoint(self.late, snapshot, step=10, epoch=0)
        self.committed = True

    def look(self) -> None:
        with self.place.observer() as keep:
            if self.committed:
                assert is_tree(keep.load_state("run:late@10"), 10)
            assert is_tree(keep.load_state("run:cnn@last"), 50)
            if self.forked:
                assert is_tree(keep.load_state("run:fork@10"), 10)
                assert is_tree(keep.load_state("run:fork@11"), 11)
            assert [one for one in keep.verify().damages if one.refs] == []


def play(first: str, second: str, at: int) -> tuple[int, bool]:
    """Do ``first``, and at its call number ``at`` all of ``second``; return its calls, and whether there is a fork."""
    scene = Scene()
    kernel = scene.place.kernel
    with scene.place.installed():
        scene.build()
        begun = kernel.steps

        def interrupt(verb: str, arguments: tuple[Any, ...]) -> None:
            kernel.next_event = -1
            getattr(scene, second)()

        kernel.on_event, kernel.next_event = interrupt, begun + at
        getattr(scene, first)()
        kernel.next_event = -1
        if at > kernel.steps - begun:
            getattr(scene, second)()
        calls = kernel.steps - begun
        scene.look()
    return calls, scene.forked


def play_all(first: str, second: str, every: int) -> None:
    calls, forked = play(first, second, 10**6)
    found = {forked}
    for at in range(1, calls, every):
        found.add(play(first, second, at)[1])
    if "fork" in (first, second):
        assert found == {True, False}  # both came: the fork was in time, and it was not


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_fork_and_a_retention_that_interrupt_each_other_lose_nothing(first: str, second: str) -> None:
    play_all(first, second, every=7)


@pytest.mark.torture
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_fork_and_a_retention_that_interrupt_each_other_in_any_call_lose_nothing(first: str, second: str) -> None:
    play_all(first, second, every=1)
