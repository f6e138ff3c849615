"""A disk that has no room for the next block of a save: it fails whole, and what it was told helps."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.backend import LocalBackend
from modelkeep.errors import StorageError
from modelkeep.state import differences
from modelkeep.store import Store, layout

from ..disks import BLOCK, fill, small_file_system

DAY = 24 * 3600.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path / "disk", "1m") as folder:
        yield folder


def state(step: int) -> Any:
    return {"base": np.arange(1000, dtype="f4"), "head": np.full(1000, step, "f8"), "step": step}


def commit(store: Store, step: int) -> None:
    run = store.run("cnn")
    attempt = run.attempts()[-1] if run.exists() else run.start_attempt({})
    snapshot = store.save(state(step), meta={"kind": "checkpoint", "run": "cnn", "step": step})
    run.commit_checkpoint(attempt, snapshot, step=step, epoch=0)


def refusal(store: Store, step: int) -> str:
    """What the disk says to a commit; nothing when there was room."""
    try:
        commit(store, step)
    except StorageError as error:
        return str(error)
    return ""


def everything(keep: Path) -> set[Path]:
    return {path for path in keep.rglob("*") if path.is_file()}


def test_a_save_that_lacks_any_block_leaves_nothing_and_the_next_succeeds(disk: Path) -> None:
    """With one block more each time: the shard, the record or the checkpoint is what finds no room."""
    store = Store.open(LocalBackend(disk / "keep"))
    commit(store, 1)
    failed = set()
    for leaving in range(20):
        step = 10 + leaving
        filler = fill(disk, leaving=leaving)
        before = everything(disk / "keep")
        error = refusal(store, step)
        left = {path.relative_to(disk / "keep").parts[0] for path in everything(disk / "keep") - before}
        filler.unlink()
        if not error:
            break
        kind = re.search(rf"{disk}/keep/(\w+)/.*bytes wanted.*free.*intact", error)
        assert kind is not None, error
        failed.add(kind[1])
        # a snapshot whose checkpoint found no room is whole, and `gc` takes it
        assert left == ({"snapshots", "shards"} if kind[1] == "runs" else set())
        assert [one.step for one in store.run("cnn").checkpoints()] == [1]
    assert failed == {"shards", "snapshots", "runs"}
    again = Store.open(store.backend)
    assert differences(state(step), again.load(again.resolve("cnn@last"))) == []
    assert again.verify().ok


def test_a_full_disk_can_be_freed_by_what_the_error_advises(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(LocalBackend(disk / "keep"))
    commit(store, 1)
    left = layout.shard_key(f"{'ab' * 8}-1")
    store.backend.create(left, bytes(20 * BLOCK))
    with store.backend.lock(store.run("cnn").lock_key):
        pass
    fill(disk)
    with pytest.raises(StorageError, match="`modelkeep gc`"):
        commit(store, 2)
    monkeypatch.setattr(store.backend, "now", lambda: time.time() + 2 * DAY)
    assert [one.key for one in store.gc(dry_run=False).removed] == [left]
    assert not (disk / "keep" / left).exists()
    assert list(store.backend.list(layout.CONDEMNED)) == []
    commit(store, 2)
    assert store.verify().ok
