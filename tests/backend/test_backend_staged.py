"""A folder before an object store: durable at once, uploaded behind, through kills, cuts and others who were first."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelkeep as mk
from modelkeep.backend import Backend, MemoryBackend, open_backend, staged
from modelkeep.backend.staged import StagedBackend
from modelkeep.errors import RunLocked, StorageError, UsageError
from modelkeep.testing.backend_suite import BackendSuite

from ..object_stores import Proxy


class TestStaged(BackendSuite):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return staged(MemoryBackend(tmp_path.name + str(tmp_path)), tmp_path / "staging", lambda key: True)


class TestStagedWhileNothingGoesUp(BackendSuite):
    """What is only in the folder is there like everything else."""

    @pytest.fixture
    def backend(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
        monkeypatch.setattr(StagedBackend, "_work", lambda self: None)
        return staged(MemoryBackend(f"held{tmp_path}"), tmp_path / "staging", lambda key: True)


WALK = """
import sys, time
import numpy as np
import modelkeep as mk

place, folder, until, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
with mk.open(place, staging=folder).run("walk", seed=3) as run, run.checkpoints(mk.every(steps=1)) as ckpt:
    state, start = ckpt.restore({"at": np.zeros(50_000)})
    print("from", start, flush=True)
    for step in range(start, until):
        state["at"] += np.random.normal(size=50_000)
        ckpt.step(step + 1, state)
        run.wait()
        print("step", step + 1, flush=True)
        time.sleep(pause)
print("done", state["at"].sum().hex(), flush=True)
"""


def walk(place: str, folder: Path, until: int, pause: float = 0.0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "always", "-c", WALK, place, str(folder), str(until), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def steps(place: str) -> list[int]:
    return [one.step for one in mk.open(place).store.run("walk").checkpoints()]


def test_a_killed_run_has_lost_nothing_of_what_was_durable_here_and_uploads_it_then(
    proxy: Proxy, through: str, tmp_path: Path
) -> None:
    process = walk(through, tmp_path / "staging", 12, 0.05)
    assert process.stdout is not None
    cut = False
    for line in process.stdout:
        if line == "step 3\n":
            cut = True
            proxy.rule = lambda method, path: "cut" if method == "PUT" else ""
        if line == "step 8\n":
            os.kill(process.pid, signal.SIGKILL)
            break
    process.communicate()
    assert cut
    assert max(steps(through)) < 8
    proxy.rule = lambda method, path: ""
    out, errors = walk(through, tmp_path / "staging", 12).communicate(timeout=60)
    assert out.splitlines()[0] == "from 8", errors
    assert steps(through) == [12, 11, 10]
    assert mk.open(through).verify().damages == ()
    plain = subprocess.run(
        [sys.executable, "-c", WALK.replace(", staging=folder", ""), str(tmp_path / "keep"), "", "12", "0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.splitlines()[-1] == plain.stdout.splitlines()[-1]
    left = [one.name for one in (tmp_path / "staging").iterdir() if one.name[:1].isdecimal()]
    assert left == []


def test_training_goes_on_without_a_network_and_the_upload_catches_up(
    proxy: Proxy, through: str, tmp_path: Path
) -> None:
    process = walk(through, tmp_path / "staging", 30, 0.3)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line.strip())
        if line == "step 5\n":
            proxy.rule = lambda method, path: "cut"
        if line == "step 20\n":
            proxy.rule = lambda method, path: ""
    errors = process.communicate(timeout=60)[1]
    assert seen[-1].startswith("done"), errors
    assert "go up when the store is back" in errors
    assert steps(through) == [30, 29, 28]
    assert mk.open(through).verify().damages == ()


def test_who_was_cut_off_while_another_took_over_is_told_and_keeps_what_it_has(
    proxy: Proxy, through: str, tmp_path: Path
) -> None:
    process = walk(through, tmp_path / "staging", 8, 0.1)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "step 3\n":
            time.sleep(1)
            proxy.rule = lambda method, path: "cut"
        if line == "step 6\n":
            os.kill(process.pid, signal.SIGKILL)
            break
    process.communicate()
    proxy.rule = lambda method, path: ""
    with mk.open(through).run("walk", seed=3) as run, run.checkpoints(mk.every(steps=1)) as ckpt:
        state, start = ckpt.restore({"at": np.zeros(50_000)})
        state["at"] += np.random.normal(size=50_000)
        ckpt.step(start + 1, state)
    before = steps(through)
    _, errors = walk(through, tmp_path / "staging", 12).communicate(timeout=60)
    assert "it has taken over while this one was away" in errors
    assert steps(through) == before
    assert [one.name for one in (tmp_path / "staging").iterdir() if one.name[:1].isdecimal()] != []


def test_a_folder_is_before_one_store_and_of_one_process(place: str, tmp_path: Path) -> None:
    keep = mk.open(place, staging=tmp_path / "staging")
    keep.save_state({"a": np.ones(3)})
    keep.flush()
    assert [one.key for one in open_backend(place).list("snapshots")] != []
    assert mk.open(place, staging=tmp_path / "staging").store.backend is keep.store.backend
    with pytest.raises(UsageError, match="is the staging folder of s3://"):
        mk.open(f"{place}-other", staging=tmp_path / "staging")
    with pytest.raises(UsageError, match=r"staging= is for object stores, and file:///.* is on this machine"):
        mk.open(tmp_path / "keep", staging=tmp_path / "staging")
    _, errors = walk(place, tmp_path / "staging", 3).communicate(timeout=60)
    assert RunLocked.__name__ in errors
    assert "store" in {one.name for one in (tmp_path / "staging").iterdir()}
    shutil.copytree(tmp_path / "staging", tmp_path / "copy")
    with pytest.raises(UsageError, match="name another folder"):
        mk.open(f"{place}-other", staging=tmp_path / "copy")


def test_an_upload_that_ends_otherwise_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: StagedBackend, batch: Any) -> None:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(StagedBackend, "_do", broken)
    backend = staged(MemoryBackend(f"broken{tmp_path}"), tmp_path / "staging", lambda key: True)
    backend.create("a", b"x")
    with pytest.raises(StorageError, match=r"uploads to memory://.* have ended: RuntimeError: out of ideas"):
        backend.flush()
    assert backend.read("a") == b"x"


def test_a_file_that_cannot_be_read_is_told_and_a_refused_folder_is_let_go(tmp_path: Path) -> None:
    remote = MemoryBackend(f"gone{tmp_path}")
    folder = tmp_path / "staging"
    open_backend(folder).create("0000000001@a", b"x")
    (folder / "0000000001@a").unlink()
    (folder / "0000000001@a").symlink_to("/nowhere")
    backend = staged(remote, folder, lambda key: True)
    with pytest.raises(StorageError, match=r"have ended: Damaged: 0000000001@a is a symbolic link"):
        backend.flush()
    assert list(remote.list("")) == []
    for _ in range(2):
        with pytest.raises(UsageError, match="name another folder"):
            StagedBackend(MemoryBackend(f"other{tmp_path}"), str(folder), lambda key: True)


def test_a_published_version_is_seen_by_others_at_once(place: str, tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    keep = mk.open(place, staging=tmp_path / "staging")
    keep.publish("digits", model)
    assert mk.open(place).store.model("digits").last().number == 1  # type: ignore[union-attr]
    assert keep.store.backend.waiting == 0  # type: ignore[attr-defined]
