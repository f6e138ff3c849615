"""Processes that publish, move aliases, remove and collect at the same moment, call by call, and killed in any call."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep.backend import LocalBackend, MemoryBackend
from modelkeep.errors import Conflict, ModelkeepError, NotFound
from modelkeep.store import ModelRecord, Store, free_versions

from .test_retention_races import Turned, Turns

_PLACES = count()
PUBLISHERS, EACH = 6, 25

PUBLISHER = """
import sys
from pathlib import Path
import numpy as np
from modelkeep.backend import LocalBackend
from modelkeep.store import Store

keep, who, each = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = Store.open(LocalBackend(keep))
print("ready", flush=True)
sys.stdin.readline()
for serial in range(each):
    value = who * 1000 + serial
    snapshot = store.save({"weights": np.full(4, value, "f4"), "value": value}, meta={"kind": "model"})
    print(store.model("digits").publish(snapshot, metrics={"value": value}).number, value, flush=True)
"""

ALIASER = """
import sys
from pathlib import Path
from modelkeep.backend import LocalBackend
from modelkeep.errors import Conflict
from modelkeep.store import Store

model = Store.open(LocalBackend(Path(sys.argv[1]))).model("digits")
print("ready", flush=True)
sys.stdin.readline()
for expected in range(1, int(sys.argv[3])):
    while model.aliases().get("champion", 0) < expected:
        pass
    try:
        move = model.alias("champion", expected + 1, expect=expected)
        print(expected, move.number, flush=True)
    except Conflict:
        pass
"""


def saved(store: Store, value: int) -> Any:
    return store.save({"weights": np.full(8, value, "f4"), "value": value}, meta={"kind": "model"})


def publish(store: Store, name: str, value: int, **options: Any) -> Any:
    return store.model(name).publish(saved(store, value), **options)


def in_processes(script: str, keep: Path, processes: int, each: int) -> list[list[str]]:
    """What each of several processes says that were let go at the same moment."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(keep), str(who), str(each)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        for who in range(processes)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    told = [child.communicate()[0].splitlines() for child in children]
    assert [child.returncode for child in children] == [0] * processes
    return told


def test_publishers_in_several_processes_get_numbers_of_their_own_and_none_is_lost(tmp_path: Path) -> None:
    Store.open(LocalBackend(tmp_path / "keep"))
    told = in_processes(PUBLISHER, tmp_path / "keep", PUBLISHERS, EACH)
    said = {}
    for lines in told:
        numbers = [int(line.split()[0]) for line in lines]
        assert numbers == sorted(numbers)
        said.update({int(number): int(value) for number, value in map(str.split, lines)})
    assert sorted(said) == list(range(1, PUBLISHERS * EACH + 1))
    store = Store.open(LocalBackend(tmp_path / "keep"))
    for version in store.model("digits").versions():
        assert said[version.number] == version.metrics["value"] == store.load(version.snapshot_id)["value"]
    assert store.verify().ok


def test_of_processes_that_expect_an_alias_in_the_same_place_one_moves_it(tmp_path: Path) -> None:
    store = Store.open(LocalBackend(tmp_path / "keep"))
    for value in range(1, 31):
        publish(store, "digits", value)
    store.model("digits").alias("champion", 1)
    won = [line.split() for lines in in_processes(ALIASER, tmp_path / "keep", 4, 30) for line in lines]
    assert sorted(int(expected) for expected, _ in won) == list(range(1, 30))
    history = store.model("digits").history("champion")
    assert [(one.number, one.version) for one in history] == [(number, number) for number in range(30, 0, -1)]


def test_of_threads_that_expect_an_alias_in_the_same_place_one_moves_it(store: Store) -> None:
    for value in range(1, 5):
        publish(store, "digits", value)
    for expected in range(3):
        barrier, outcomes = threading.Barrier(4), []

        def go(barrier: threading.Barrier, expected: int, outcomes: list[str]) -> None:
            record = ModelRecord(store.backend, "digits")
            barrier.wait()
            try:
                record.alias("champion", expected + 1, expect=expected)
                outcomes.append("moved")
            except Conflict:
                outcomes.append("conflict")

        threads = [threading.Thread(target=go, args=(barrier, expected, outcomes)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # One that comes when the alias is where it wants it makes no move, and expected it elsewhere.
        assert sorted(outcomes) == ["conflict"] * 3 + ["moved"]
    assert [one.version for one in store.model("digits").history("champion")] == [3, 2, 1]


# Two processes, call by call


def orders() -> Any:
    """Which of two moves next, call by call, in bursts."""
    burst = st.tuples(st.sampled_from(["one", "other"]), st.integers(1, 9))
    return st.lists(burst, max_size=12).map(lambda bursts: [name for name, times in bursts for _ in range(times)])


def pauses(calls: int) -> Any:
    """Every way to stop one of two before some call, let the other go some calls on, and let the first end."""
    for first, second in (("one", "other"), ("other", "one")):
        for before in range(calls):
            for during in (*range(1, calls), 1000):
                yield [first] * before + [second] * during + [first] * 1000


def told(verb: Callable[[], Any]) -> str:
    """Whether a verb was acknowledged, or refused as it may be."""
    try:
        verb()
    except (Conflict, NotFound):
        return "refused"
    return "done"


def race(order: list[str], one: Callable[[Store], Any], other: Callable[[Store], Any], prepare: Any) -> Any:
    """Both verbs on stores of their own, in that order of calls; what became of them, and the keep afterwards."""
    backend = MemoryBackend(f"models-race-{next(_PLACES)}")
    prepare(Store.open(backend))
    turns, stores = Turns(order), {}
    for name in ("one", "other"):
        stores[name] = Store.open(backend)
        stores[name].backend = Turned(backend, turns)  # type: ignore[assignment]
    outcome = turns.play(
        {"one": lambda: told(lambda: one(stores["one"])), "other": lambda: told(lambda: other(stores["other"]))}
    )
    return outcome, Store.open(backend)


def three(store: Store) -> None:
    for value in (1, 2, 3):
        publish(store, "digits", value)
    store.model("digits").alias("champion", 1)


def remove_two(store: Store) -> None:
    version = store.model("digits").version(2)
    store.model("digits").remove(2)
    free_versions(store, [version])


def move_to_two(store: Store) -> None:
    store.model("digits").alias("champion", 2, expect=1)


def check_alias_or_removal(outcome: dict[str, str], store: Store) -> None:
    """What was acknowledged holds, and the alias leads to a version that loads."""
    model = store.model("digits")
    at = model.aliases()["champion"]
    if outcome["one"] == "done":
        assert at == 2
    if outcome["other"] == "done":
        assert at == 1
        with pytest.raises(NotFound):
            model.version(2)
    assert "refused" in outcome.values()
    assert store.load(store.resolve("model:digits@champion"))["value"] == at
    assert store.verify().ok


@given(orders())
@settings(max_examples=60, deadline=None)
def test_an_alias_is_not_moved_to_what_is_removed_at_that_moment(order: list[str]) -> None:
    check_alias_or_removal(*race(order, move_to_two, remove_two, three))


def test_no_pair_of_pauses_lets_an_alias_lead_to_what_is_removed() -> None:
    outcomes = set()
    for order in pauses(24):
        outcome, store = race(order, move_to_two, remove_two, three)
        check_alias_or_removal(outcome, store)
        outcomes.add((outcome["one"], outcome["other"]))
    assert outcomes >= {("done", "refused"), ("refused", "done")}


def grow_from_two(store: Store) -> None:
    publish(store, "letters", 9, parents=[store.model("digits").version(2)])


def test_no_pair_of_pauses_lets_a_version_grow_from_what_is_removed() -> None:
    outcomes = set()
    for order in pauses(24):
        outcome, store = race(order, grow_from_two, remove_two, three)
        letters = store.model("letters").versions()
        outcomes.add((outcome["one"], outcome["other"]))
        assert "refused" in outcome.values()
        if outcome["one"] == "done":
            assert [one.parents[0].number for one in letters] == [2]
            assert store.load(store.resolve("model:digits@2"))["value"] == 2
        else:
            assert letters == []
        assert store.verify().ok
    assert outcomes >= {("done", "refused"), ("refused", "done")}


def publish_it_again(store: Store) -> None:
    """The very state that the other removes: its record is there, and found."""
    publish(store, "again", 2)


def test_no_pair_of_pauses_takes_the_snapshot_of_a_version_that_is_published() -> None:
    outcomes = set()
    for order in pauses(30):
        outcome, store = race(order, publish_it_again, remove_two, three)
        outcomes.add((outcome["one"], outcome["other"]))
        for version in store.model("again").versions():
            assert store.load(version.snapshot_id)["value"] == 2
        assert outcome["one"] == ("done" if store.model("again").versions() else "refused")
        assert store.verify().ok
    assert outcomes >= {("done", "done"), ("refused", "done")}


# Killed in any call

KILLED = """
import os, shutil, signal, sys, threading
from pathlib import Path
import numpy as np
from modelkeep.backend import LocalBackend
from modelkeep.store import Store

def die_in(number):
    '''Kill this process in the ``number``-th call that changes the disk; a write is then half done.'''
    guard, calls = threading.Lock(), 0
    def mortal(real, half):
        def call(*arguments, **options):
            nonlocal calls
            with guard:
                calls += 1
                if calls == number:
                    if half:
                        descriptor, data, offset = arguments
                        real(descriptor, data[: len(data) // 2], offset)
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        return call
    for name in ("open", "mkdir", "link", "unlink", "pwrite", "fsync", "fchmod"):
        setattr(os, name, mortal(getattr(os, name), name == "pwrite"))

def publish(store):
    snapshot = store.save({"weights": np.full(8, 4, "f4"), "value": 4}, meta={"kind": "model"})
    store.model("digits").publish(snapshot, parents=[store.model("digits").version(3)])

def alias(store):
    store.model("digits").alias("champion", 3, expect=1)

def remove(store):
    store.model("digits").remove(2)

first, number, verb = Path(sys.argv[1]), 0, globals()[sys.argv[2]]
while True:
    number += 1
    keep = first.with_name(f"{sys.argv[2]}-{number:03d}")
    shutil.copytree(first, keep)
    child = os.fork()
    if child == 0:
        store = Store.open(LocalBackend(keep))
        die_in(number)
        verb(store)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        break
    assert status == -signal.SIGKILL, status
"""


def killed(folder: Path, verb: str) -> list[Store]:
    """A keep of three versions in as many copies as a verb takes calls, its process killed in each."""
    three(Store.open(LocalBackend(folder / "keep")))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder / "keep"), verb],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    keeps = sorted(folder.glob(f"{verb}-*"))
    assert len(keeps) > 5
    return [Store.open(LocalBackend(keep)) for keep in keeps]


def test_a_publisher_that_is_killed_in_any_call_leaves_a_whole_version_or_none(tmp_path: Path) -> None:
    newest = []
    for store in killed(tmp_path, "publish"):
        versions = store.model("digits").versions()
        assert [one.number for one in versions][-3:] == [3, 2, 1]
        for version in versions:
            assert store.load(version.snapshot_id)["value"] == version.number
        assert store.verify().damages == ()
        newest.append(versions[0].number)
        assert publish(store, "digits", newest[-1] + 1).number == newest[-1] + 1
    assert newest == sorted(newest)  # once a call has made the version, no later one takes it away
    assert set(newest) == {3, 4}


def test_an_aliaser_that_is_killed_in_any_call_has_moved_the_alias_or_not(tmp_path: Path) -> None:
    where = []
    for store in killed(tmp_path, "alias"):
        where.append(store.model("digits").aliases()["champion"])
        assert store.load(store.resolve("digits@champion"))["value"] == where[-1]
        assert store.verify().damages == ()
        store.model("digits").alias("champion", 2, expect=where[-1])
    assert where == sorted(where)
    assert set(where) == {1, 3}


def test_a_remover_that_is_killed_in_any_call_has_removed_the_version_or_not(tmp_path: Path) -> None:
    there = []
    for store in killed(tmp_path, "remove"):
        model = store.model("digits")
        there.append(2 in [one.number for one in model.versions()])
        assert store.verify().damages == ()
        if there[-1]:
            assert store.load(store.resolve("digits@2"))["value"] == 2
            model.alias("candidate", 2)
            with pytest.raises(Conflict, match="alias candidate"):
                model.remove(2)
        else:
            with pytest.raises(ModelkeepError):
                model.alias("candidate", 2)
    assert there == sorted(there, reverse=True)
    assert set(there) == {True, False}
