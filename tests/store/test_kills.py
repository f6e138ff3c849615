"""A saver that is killed inside any of its calls to the operating system: nothing is lost, nothing is left."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.backend import LocalBackend
from modelkeep.state import differences
from modelkeep.store import Store, clear_leftovers, newest_good

SAVER = """
import os, shutil, signal, sys, threading
from pathlib import Path
from {module} import commit, start
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

first, number = Path(sys.argv[1]), 0
while True:
    number += 1
    keep = first.with_name(f"keep-{{number:03d}}")
    shutil.copytree(first, keep)
    child = os.fork()
    if child == 0:
        store = Store.open(LocalBackend(keep))
        with store.backend.lock(store.run("cnn").lock_key):
            attempt, donor = start(store, 2), store.resolve("cnn@last")
            die_in(number)
            commit(store, attempt, 2, donor)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        break
    assert status == -signal.SIGKILL, status
"""


def state(step: int) -> Any:
    return {"base": np.arange(3000, dtype="f4"), "head": np.full(70_000, step, "f4"), "step": step}


def start(store: Any, number: int) -> Any:
    """Each attempt names its shards by a token of its own."""
    return store.run("cnn").start_attempt({"writer": f"{number:x}" * 16})


def commit(store: Any, attempt: Any, step: int, donor: Any = None) -> None:
    meta = {"kind": "checkpoint", "run": "cnn", "step": step}
    snapshot = store.save(state(step), meta=meta, writer=attempt.info["writer"], donor=donor)
    store.run("cnn").commit_checkpoint(attempt, snapshot, step=step, epoch=0)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A keep with one checkpoint, in as many copies as a second one takes calls, its saver killed in each."""
    folder = tmp_path_factory.mktemp("kills")
    store = Store.open(LocalBackend(folder / "keep"))
    commit(store, start(store, 1), 1)
    script = SAVER.format(module=Path(__file__).stem)
    path = os.pathsep.join([str(Path(__file__).parent), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "keep")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return sorted(folder.glob("keep-*"))


def fail(what: str, error: Exception) -> None:
    pytest.fail(f"{what}: {error}")


def test_a_saver_that_is_killed_in_any_call_loses_nothing_that_was_committed(killed: list[Path]) -> None:
    steps = []
    for keep in killed:
        store = Store.open(LocalBackend(keep))
        found = newest_good(store, store.run("cnn"), fail)
        assert found is not None
        checkpoint, _, tree = found
        assert differences(state(checkpoint.step), tree) == [], keep.name
        assert store.verify().damages == (), keep.name
        steps.append(checkpoint.step)
    assert set(steps) == {1, 2}
    assert steps == sorted(steps)  # once a call has made the checkpoint, no later one takes it away
    assert len(killed) > 15


def test_the_next_attempt_clears_what_a_killed_saver_left_and_saves(killed: list[Path]) -> None:
    left = 0
    for keep in killed:
        store = Store.open(LocalBackend(keep))
        run = store.run("cnn")
        with store.backend.lock(run.lock_key):
            named = {one.snapshot_id for one in run.checkpoints()}
            left += clear_leftovers(store, run)
            commit(store, start(store, 3), 3, store.resolve("cnn@last"))
        # A record half written tells no writer; it is small, and `gc` removes it when it is old.
        assert [path for path in keep.rglob(".*") if path.parts[-3] != "snapshots"] == [], keep.name
        again = Store.open(LocalBackend(keep))
        for one in again.run("cnn").checkpoints():
            assert differences(state(one.step), again.load(again.snapshot(one.snapshot_id))) == [], keep.name
        assert named < {one.snapshot_id for one in again.run("cnn").checkpoints()}
        assert again.verify().damages == (), keep.name
        held = {shard for path in keep.glob("snapshots/*/*.json") for shard in again.snapshot(path.stem).shards}
        assert {path.stem for path in keep.glob("shards/*/*")} == held, keep.name
    assert left > 5
