"""Two processes on one keep, call by call: whatever the order, what was acknowledged is loaded bit for bit."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep.backend import Backend, MemoryBackend
from modelkeep.state import differences
from modelkeep.store import Store, clear_leftovers

from .test_retention import drop, every_checkpoint_loads, state, trained

_RACES = count()


class Turns:
    """Lets two threads call a backend in a given order, one call at a time; who has ended is passed over."""

    def __init__(self, order: list[str]) -> None:
        self.condition = threading.Condition()
        self.order = list(order)
        self.names: dict[int, str] = {}
        self.ended: set[str] = set()

    def await_turn(self) -> None:
        name = self.names.get(threading.get_ident())
        if name is None:
            return
        with self.condition:
            self.condition.wait_for(lambda: self._next() in (name, None))
            if self.order:
                self.order.pop(0)
            self.condition.notify_all()

    def _next(self) -> Any:
        while self.order and self.order[0] in self.ended:
            self.order.pop(0)
        return self.order[0] if self.order else None

    def play(self, verbs: dict[str, Any]) -> Any:
        """Run each of ``verbs`` in a thread of its own; return what they return."""
        ready = threading.Barrier(len(verbs))

        def act(name: str) -> Any:
            with self.condition:
                self.names[threading.get_ident()] = name
            ready.wait()
            try:
                return verbs[name]()
            finally:
                with self.condition:
                    self.ended.add(name)
                    self.condition.notify_all()

        with ThreadPoolExecutor(len(verbs)) as pool:
            return dict(zip(verbs, pool.map(act, verbs), strict=True))


class Turned:
    """A backend each of whose calls waits for its turn."""

    def __init__(self, backend: Backend, turns: Turns) -> None:
        self._backend, self._turns = backend, turns

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if not callable(found) or name in ("lock", "now"):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._turns.await_turn()
            result = found(*arguments, **options)
            # A listing is one call: what comes later is not in it.
            return iter(list(result)) if name in ("list", "folders") else result

        return call


def orders() -> Any:
    """Which of two moves next, call by call, in bursts: most races need one to sleep while the other does much."""
    burst = st.tuples(st.sampled_from(["writer", "collector"]), st.integers(1, 12))
    return st.lists(burst, max_size=12).map(lambda bursts: [name for name, count in bursts for _ in range(count)])


def drop_three(store: Store) -> None:
    drop(store, store.run("cnn"), [1, 2, 3])


def drop_in_two_steps(store: Store) -> None:
    drop(store, store.run("cnn"), [1, 2])
    drop(store, store.run("cnn"), [3])


def start_again(store: Store) -> None:
    """The run was killed after it had deleted dropped records, and before it deleted their shards."""
    clear_leftovers(store, store.run("cnn"))


@given(orders())
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("collecting", [drop_three, drop_in_two_steps, start_again])
def test_a_fork_that_reuses_pieces_loses_none_to_a_collector(collecting: Any, order: list[str]) -> None:
    """A fork saves with the pieces of a checkpoint that its parent's run drops at the same time."""
    _race(order, collecting)


@pytest.mark.parametrize("collecting", [drop_three, start_again])
def test_no_pair_of_pauses_lets_a_collector_take_pieces_that_a_fork_reuses(collecting: Any) -> None:
    """Every way to stop one of the two before some call, let the other go some calls on, and let the first end."""
    for first, second in (("writer", "collector"), ("collector", "writer")):
        for before in range(26):
            for during in (*range(1, 14), 1000):
                _race([first] * before + [second] * during + [first] * 1000, collecting)


def _race(order: list[str], collecting: Any) -> None:
    killed = collecting is start_again
    backend = MemoryBackend(f"race-{next(_RACES)}")
    store = Store.open(backend)
    run, snapshots = trained(store, steps=range(1, 5), writer="ab" * 8)
    store.save(state(99), meta={"kind": "state"}, writer="cd" * 8)
    donor = snapshots[2]
    if killed:
        run.drop([1, 2, 3])
        for one in snapshots[:3]:
            store.delete_snapshot(one.id)
    turns = Turns(order)
    fork = Store.open(backend)
    attempt = fork.run("fork").start_attempt({})
    fork = Store.open(backend)
    fork.backend = Turned(backend, turns)
    record = fork.run("fork")
    collector = Store.open(backend)
    collector.backend = Turned(backend, turns)

    def write() -> None:
        snapshot = fork.save(state(3), meta={"kind": "checkpoint", "run": "fork", "step": 3}, donor=donor)
        record.commit_checkpoint(attempt, snapshot, step=3, epoch=0)

    turns.play({"writer": write, "collector": lambda: collecting(collector)})
    again = Store.open(backend)
    (one,) = again.run("fork").checkpoints()
    assert differences(again.load(again.snapshot(one.snapshot_id)), state(3)) == []
    if not killed:
        every_checkpoint_loads(again)
