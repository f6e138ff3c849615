import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.backend import LocalBackend
from modelkeep.errors import Damaged, RunLocked, UsageError
from modelkeep.snapshot.canonical import seal
from modelkeep.state import differences
from modelkeep.store import RunRecord, Store, free, layout

DAY = 24 * 3600.0


def state(step: int) -> Any:
    return {"base": np.arange(5000, dtype="f4"), "head": np.full(3000, step, "f4")}


@pytest.fixture
def run(store: Store) -> Any:
    return trained(store)


def trained(store: Store, name: str = "cnn", steps: Any = (1, 2, 3, 4, 5)) -> Any:
    run = store.run(name)
    attempt = run.start_attempt({})
    donor = None
    for step in steps:
        meta = {"kind": "checkpoint", "run": name, "step": step}
        donor = store.save(state(step), meta=meta, donor=donor)
        run.commit_checkpoint(attempt, donor, step=step, epoch=0)
    return run


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the clock of a store's place ahead."""

    def set_ahead(store: Store, seconds: float) -> None:
        monkeypatch.setattr(store.backend, "now", lambda: time.time() + seconds)

    return set_ahead


def everything(store: Store) -> Any:
    return {entry.key for entry in store.backend.list("") if not entry.key.endswith("/lock")}


def leave_shard(store: Store, number: int = 1) -> Any:
    """A shard that no record names yet, as a save under way has it."""
    key = layout.shard_key(f"{'ab' * 8}-{number}")
    store.backend.create(key, b"x" * 1000)
    return key


def unnamed_checkpoint(store: Store, step: int = 77) -> Any:
    """A record whose checkpoint was never committed, as a kill between the two leaves it."""
    return store.save(state(step), meta={"kind": "checkpoint", "step": step})


def test_nothing_is_deleted_unless_asked(store: Store, run: RunRecord, later: Callable[[Store, float], None]) -> None:
    left = leave_shard(store)
    before = everything(store)
    later(store, 2 * DAY)
    report = store.gc()
    assert report.dry_run
    assert [(one.key, one.nbytes) for one in report.removed] == [(left, 1000)]
    assert report.nbytes == 1000
    assert everything(store) == before


def test_a_report_says_each_key_its_bytes_and_why(
    store: Store, run: RunRecord, later: Callable[[Store, float], None]
) -> None:
    leave_shard(store)
    snapshot = unnamed_checkpoint(store)
    later(store, 2 * DAY)
    reasons = {one.key: one.reason for one in store.gc().removed}
    assert "no run names" in reasons[layout.snapshot_key(snapshot.id)]
    for shard in snapshot.shards:
        assert "no snapshot holds" in reasons[layout.shard_key(shard)]
    assert all(one.nbytes > 0 for one in store.gc().removed)


def test_what_would_be_deleted_is_what_is_deleted(
    store: Store, run: RunRecord, later: Callable[[Store, float], None]
) -> None:
    leave_shard(store)
    unnamed_checkpoint(store)
    later(store, 2 * DAY)
    before = everything(store)
    planned = {one.key for one in store.gc().removed}
    assert {one.key for one in store.gc(dry_run=False).removed} == planned
    assert everything(store) == before - planned
    assert store.gc().removed == ()


def test_what_a_run_names_is_never_garbage(store: Store, run: RunRecord, later: Callable[[Store, float], None]) -> None:
    run.drop([1, 2])
    free(store, [one for one in run.checkpoints(dropped=True) if one.dropped])
    later(store, 1000 * DAY)
    store.gc(dry_run=False)
    again = Store.open(store.backend)
    for one in again.run("cnn").checkpoints():
        assert differences(again.load(again.snapshot(one.snapshot_id)), state(one.step)) == []


def test_a_state_that_was_saved_by_itself_is_never_garbage(store: Store, later: Callable[[Store, float], None]) -> None:
    snapshot = store.save(state(1), meta={"kind": "state"})
    later(store, 1000 * DAY)
    store.gc(dry_run=False)
    assert differences(store.load(snapshot.id), state(1)) == []


def test_records_and_shards_of_a_drop_that_was_killed_are_collected(
    store: Store, run: RunRecord, later: Callable[[Store, float], None]
) -> None:
    run.drop([2, 3])
    later(store, 2 * DAY)
    report = store.gc(dry_run=False)
    assert len([one for one in report.removed if one.key.startswith("snapshots/")]) == 2
    assert len([one for one in report.removed if one.key.startswith("shards/")]) == 2


@pytest.mark.parametrize("grace", [0, 60, DAY])
def test_what_is_younger_than_a_day_stays_whatever_the_grace(
    store: Store, run: RunRecord, later: Callable[[Store, float], None], grace: float
) -> None:
    """It may be of a save under way, in a process that holds no lock."""
    leave_shard(store)
    unnamed_checkpoint(store)
    before = everything(store)
    later(store, DAY - 3600)
    report = store.gc(dry_run=False, grace=grace)
    assert report.removed == ()
    assert report.kept_young == 3
    assert everything(store) == before


def test_a_longer_grace_keeps_what_is_younger_than_it(
    store: Store, run: RunRecord, later: Callable[[Store, float], None]
) -> None:
    leave_shard(store)
    later(store, 2 * DAY)
    assert store.gc(grace=3 * DAY).removed == ()
    assert len(store.gc(grace=DAY).removed) == 1


def test_a_grace_below_zero_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="-1"):
        store.gc(grace=-1)


def test_a_run_that_is_being_written_stops_a_collection(
    store: Store, run: RunRecord, later: Callable[[Store, float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_shard(store)
    later(store, 2 * DAY)
    before = everything(store)

    def held(key: str) -> None:
        raise RunLocked(f"{key} is held by process 7 on elsewhere")

    monkeypatch.setattr(store.backend, "lock", held)
    with pytest.raises(RunLocked, match=r"run cnn .*process 7 on elsewhere"):
        store.gc(dry_run=False)
    assert everything(store) == before
    assert len(store.gc().removed) == 1  # looking needs no lock


HOLDER = """
import sys
from modelkeep.backend import LocalBackend
with LocalBackend(sys.argv[1]).lock("runs/cnn/lock"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_run_of_a_live_process_stops_a_collection_until_it_is_dead(
    local_store: Store, tmp_path: Path, later: Callable[[Store, float], None]
) -> None:
    trained(local_store)
    left = leave_shard(local_store)
    later(local_store, 2 * DAY)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "keep")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunLocked, match=rf"run cnn .*process {holder.pid} "):
            local_store.gc(dry_run=False)
        assert left in everything(local_store)
        holder.kill()
        holder.wait()
        assert [one.key for one in local_store.gc(dry_run=False).removed] == [left]


def test_looking_while_a_run_drops_checkpoints_is_no_error(
    store: Store, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = Store.open(store.backend)
    listing = store.backend.list

    def overtaken(prefix: str, **options: Any) -> Any:
        entries = list(listing(prefix, **options))
        if prefix == layout.SNAPSHOTS:
            monkeypatch.setattr(store.backend, "list", listing)
            dropped = [one for one in run.checkpoints() if one.number in (1, 2, 3)]
            run.drop([one.number for one in dropped])
            free(Store.open(store.backend), dropped)
        return iter(entries)

    monkeypatch.setattr(store.backend, "list", overtaken)
    assert looking.gc().removed == ()
    assert [one.number for one in run.checkpoints()] == [5, 4]


def test_looking_changes_no_file(local_store: Store, tmp_path: Path) -> None:
    trained(local_store)
    before = set((tmp_path / "keep").rglob("*"))
    local_store.gc()
    assert set((tmp_path / "keep").rglob("*")) == before


def test_a_record_that_cannot_be_read_stops_a_collection(
    local_store: Store, tmp_path: Path, later: Callable[[Store, float], None]
) -> None:
    trained(local_store)
    leave_shard(local_store)
    path = next((tmp_path / "keep" / "snapshots").rglob("*.json"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    later(local_store, 2 * DAY)
    store = Store.open(local_store.backend)
    before = everything(store)
    with pytest.raises(Damaged, match="snapshots/"):
        store.gc(dry_run=False)
    assert everything(store) == before


def test_sentences_of_killed_collectors_are_lifted_and_those_of_living_ones_are_not(
    store: Store, run: RunRecord, later: Callable[[Store, float], None]
) -> None:
    old = layout.condemned_key("9999999998")
    store.backend.create(old, seal({"shards": []}))
    store.gc(dry_run=False)
    assert old in everything(store)
    later(store, 2 * DAY)
    store.gc(dry_run=False)
    assert old not in everything(store)


def test_unfinished_files_are_removed_when_they_are_old(
    local_store: Store, tmp_path: Path, later: Callable[[Store, float], None]
) -> None:
    trained(local_store)
    writer = local_store.backend.writer("shards/ab/abababababababab-1.safetensors")
    writer.append(memoryview(b"half"))
    local_store.gc(dry_run=False)
    assert len(list((tmp_path / "keep").rglob(".*.tmp"))) == 1
    later(local_store, 2 * DAY)
    local_store.gc(dry_run=False)
    assert list((tmp_path / "keep").rglob(".*.tmp")) == []
    writer.abort()


def test_foreign_files_are_not_ours_to_delete(
    local_store: Store, tmp_path: Path, later: Callable[[Store, float], None]
) -> None:
    trained(local_store)
    foreign = [
        tmp_path / "keep" / name
        for name in ("notes.txt", "shards/readme", "snapshots/mi/mine.json", "runs/my run/x", ".git/.lock.tmp")
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    later(local_store, 1000 * DAY)
    store = Store.open(local_store.backend)
    assert store.gc(dry_run=False).removed == ()
    assert [path.read_text() for path in foreign] == ["mine"] * 5


def test_a_collection_of_an_empty_keep_finds_nothing(tmp_path: Path) -> None:
    report = Store.open(LocalBackend(tmp_path / "keep")).gc(dry_run=False)
    assert (report.removed, report.kept_young, report.nbytes) == ((), 0, 0)
