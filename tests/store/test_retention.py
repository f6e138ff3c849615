import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.backend import LocalBackend
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.canonical import seal
from modelkeep.state import differences
from modelkeep.store import Attempt, Best, Checkpoint, Retain, RunRecord, Store, clear_leftovers, free, layout, to_drop
from modelkeep.store.retention import collect, condemned, valid_runs
from modelkeep.values import Json, SnapshotId


def checkpoint(number: int, step: int | None = None, dropped: bool = False, **metrics: float) -> Any:
    step = 10 * number if step is None else step
    return Checkpoint(number, SnapshotId(""), step, 0, metrics, 0.0, 1, "policy", True, dropped)


def kept(checkpoints: list[Checkpoint], policy: Retain) -> Any:
    gone = to_drop(checkpoints, policy)
    return [one.number for one in checkpoints if one.number not in gone and not one.dropped]


# Which stay


def test_by_default_the_last_three_stay() -> None:
    assert kept([checkpoint(n) for n in range(1, 7)], Retain()) == [4, 5, 6]


@pytest.mark.parametrize(
    ("steps", "stays"),
    [
        ([0, 10, 20, 30, 40, 50], [20, 40, 50]),
        ([10, 20, 30, 40, 50], [20, 40, 50]),
        ([0, 15, 25, 30, 45, 70], [25, 45, 70]),
        ([0, 19, 21, 79, 81], [21, 79, 81]),  # 79 is the first at or after 60
        ([0, 20, 20, 40, 41], [20, 40, 41]),
    ],
)
def test_every_keeps_the_first_checkpoint_at_or_after_each_multiple(steps: Any, stays: list[int]) -> None:
    made = [checkpoint(number, step) for number, step in enumerate(steps, 1)]
    gone = to_drop(made, Retain(last=1, every_steps=20))
    assert [one.step for one in made if one.number not in gone] == stays


def test_the_best_stay_in_both_directions() -> None:
    made = [checkpoint(n, loss=loss) for n, loss in enumerate([0.5, 0.1, 0.9, 0.2, 0.3], 1)]
    assert kept(made, Retain(last=1, best=Best("loss"))) == [2, 5]
    assert kept(made, Retain(last=1, best=Best("loss", "max"))) == [3, 5]
    assert kept(made, Retain(last=1, best=Best("loss", keep=3))) == [2, 4, 5]


def test_nan_and_missing_metrics_are_never_best() -> None:
    made = [checkpoint(1, loss=math.nan), checkpoint(2), checkpoint(3, loss=9.0), checkpoint(4, loss=math.nan)]
    for mode in ("min", "max"):
        assert kept(made, Retain(last=1, best=Best("loss", mode, keep=3))) == [3, 4]


def test_infinite_metrics_are_metrics() -> None:
    made = [checkpoint(1, loss=math.inf), checkpoint(2, loss=-math.inf), checkpoint(3, loss=0.0)]
    assert kept(made, Retain(last=1, best=Best("loss"))) == [2, 3]
    assert kept(made, Retain(last=1, best=Best("loss", "max"))) == [1, 3]


made_up = st.lists(
    st.tuples(st.integers(0, 200), st.booleans(), st.none() | st.floats(allow_nan=True, allow_infinity=True, width=16)),
    max_size=20,
)
policies = st.builds(
    Retain,
    last=st.integers(1, 5),
    every_steps=st.none() | st.integers(1, 60),
    best=st.none() | st.builds(Best, st.just("loss"), st.sampled_from(["min", "max"]), st.integers(1, 3)),
)


@given(made_up, policies)
def test_what_stays_is_the_union_of_what_each_part_keeps(rows: Any, policy: Retain) -> None:
    made = [
        checkpoint(number, step, dropped, **({} if loss is None else {"loss": loss}))
        for number, (step, dropped, loss) in enumerate(sorted(rows, key=lambda row: row[0]), 1)
    ]
    there = [one for one in made if not one.dropped]
    live = list({(one.step, repr(one.metrics)): one for one in there}.values())  # what is saved twice counts once
    gone = to_drop(made, policy)
    assert {one.number for one in there} - {one.number for one in live} <= set(gone)
    expected = {one.number for one in live[-policy.last :]}
    if policy.every_steps:
        for multiple in range(policy.every_steps, 201, policy.every_steps):
            expected |= {one.number for one in [one for one in live if one.step >= multiple][:1]}
    if policy.best:
        able = [one for one in live if not math.isnan(one.metrics.get("loss", math.nan))]
        ranked = sorted(able, key=lambda one: one.metrics["loss"], reverse=policy.best.mode == "max")
        bound = {one.metrics["loss"] for one in ranked[: policy.best.keep]}
        chosen = {one.number for one in able if one.metrics["loss"] in bound}
        assert len(chosen & {one.number for one in live} - set(gone)) >= min(policy.best.keep, len(able))
        expected |= {one.number for one in able if one.number not in gone and one.metrics["loss"] in bound}
    assert {one.number for one in live} - set(gone) == expected
    assert gone == sorted(gone)
    assert not live or live[-1].number not in gone
    assert to_drop([one for one in made if one.number not in gone], policy) == []


# What is freed


def state(step: int) -> Any:
    """A frozen base that all checkpoints share, and a head that each has its own of."""
    return {"base": np.arange(5000, dtype="f4"), "head": np.full(3000, step, "f4")}


def commit(
    store: Store, run: RunRecord, attempt: Attempt, step: int, donor: Snapshot | None = None, writer: str = ""
) -> Any:
    meta: dict[str, Json] = {"kind": "checkpoint", "run": run.name, "step": step}
    snapshot = store.save(state(step), meta=meta, donor=donor, writer=writer)
    run.commit_checkpoint(attempt, snapshot, step=step, epoch=0)
    return snapshot


def trained(store: Store, name: str = "cnn", steps: Any = range(1, 6), writer: str = "") -> Any:
    run = store.run(name)
    attempt = run.start_attempt({"writer": writer})
    snapshots, donor = [], None
    for step in steps:
        donor = commit(store, run, attempt, step, donor, writer)
        snapshots.append(donor)
    return run, snapshots


def drop(store: Store, run: RunRecord, numbers: Any) -> None:
    dropped = [one for one in run.checkpoints() if one.number in numbers]
    run.drop(numbers)
    free(store, dropped)


def keys(store: Store, prefix: str) -> Any:
    return {entry.key for entry in store.backend.list(prefix)}


def shards(store: Store) -> Any:
    return {layout.shard_of(key) for key in keys(store, layout.SHARDS)}


def every_checkpoint_loads(store: Store) -> None:
    """Each checkpoint of a keep, read by a new handle, is the state that was saved."""
    again = Store.open(store.backend)
    for run in valid_runs(again):
        for one in run.checkpoints():
            assert differences(again.load(again.snapshot(one.snapshot_id)), state(one.step)) == []


def test_dropping_frees_what_nothing_else_holds_at_once(store: Store) -> None:
    run, snapshots = trained(store)
    before = shards(store)
    drop(store, run, [2, 3])
    assert before - shards(store) == (set(snapshots[1].shards) | set(snapshots[2].shards)) - set(snapshots[0].shards)
    assert {layout.snapshot_of(key) for key in keys(store, layout.SNAPSHOTS)} == {
        snapshots[index].id for index in (0, 3, 4)
    }
    assert keys(store, "gc") == set()
    every_checkpoint_loads(store)


def test_a_shard_whose_pieces_others_reuse_outlives_its_own_checkpoint(store: Store) -> None:
    run, snapshots = trained(store)
    drop(store, run, [1])
    assert set(snapshots[0].shards) <= shards(store)
    every_checkpoint_loads(store)
    drop(store, run, [2, 3, 4])
    every_checkpoint_loads(store)


def test_a_snapshot_that_another_run_names_stays(store: Store) -> None:
    run, snapshots = trained(store)
    fork = store.run("fork")
    attempt = fork.start_attempt({})
    fork.commit_checkpoint(attempt, snapshots[1], step=2, epoch=0)
    drop(store, run, [1, 2, 3, 4])
    every_checkpoint_loads(store)
    assert store.has_snapshot(snapshots[1].id)


def test_the_history_of_what_was_dropped_stays(store: Store) -> None:
    run, _ = trained(store)
    drop(store, run, [1, 2])
    assert [one.step for one in RunRecord(store.backend, "cnn").checkpoints(dropped=True)] == [5, 4, 3, 2, 1]


def test_a_drop_reads_no_record_that_this_process_has_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = trained(store, steps=range(1, 11))
    drop(store, run, [1])
    dropped = [one for one in run.checkpoints() if one.number == 2]
    run.drop([2])
    reads = []
    read = store.backend.read

    def counted(key: str, *arguments: Any, **options: Any) -> Any:
        reads.append(key)
        return read(key, *arguments, **options)

    monkeypatch.setattr(store.backend, "read", counted)
    free(store, dropped)
    assert [key for key in reads if key.startswith(("snapshots/", "runs/"))] == []


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_drop_does_not_list_what_any_run_has_logged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of training has tens of thousands of metric segments, and every save may drop."""
    run, _ = trained(store)
    other, _ = trained(store, "other")
    for record in (run, other):
        record.append_metrics(record.attempts()[0], [{"step": 1, "epoch": 0, "values": {}}])
    listing, seen = store.backend.list, []

    def counted(prefix: str, **options: Any) -> Any:
        for entry in listing(prefix, **options):
            seen.append(entry.key)
            yield entry

    monkeypatch.setattr(store.backend, "list", counted)
    drop(store, run, [2])
    assert seen
    assert not [key for key in seen if "/metrics/" in key]


@pytest.mark.parametrize("kind", ["snapshots", "runs/other/checkpoints", "runs/other/dropped"])
def test_where_a_record_cannot_be_read_nothing_is_deleted_and_training_goes_on(
    local_store: Store, tmp_path: Path, kind: str
) -> None:
    """It could name any shard or snapshot."""
    _run, _ = trained(local_store)
    other, others = trained(local_store, "other")
    drop(local_store, other, [1])
    folder = tmp_path / "keep" / kind
    victim = folder / others[2].id[:2] / f"{others[2].id}.json" if kind == "snapshots" else min(folder.iterdir())
    damage(victim)
    store = Store.open(local_store.backend)
    before = shards(store)
    with pytest.warns(RuntimeWarning, match="no space was freed"):
        drop(store, store.run("cnn"), [1, 2])
    assert shards(store) == before


def test_a_record_of_a_newer_format_deletes_nothing_and_training_goes_on(store: Store) -> None:
    run, _ = trained(store)
    twin = "ab" + "0" * 62
    store.backend.create(f"snapshots/ab/{twin}.json", seal({"modelkeep": 2, "id": twin}))
    before = shards(store)
    with pytest.warns(RuntimeWarning, match="no space was freed"):
        drop(store, run, [2, 3])
    assert shards(store) == before


def test_foreign_folders_beside_the_runs_do_not_stop_a_drop(local_store: Store, tmp_path: Path) -> None:
    run, _ = trained(local_store)
    (tmp_path / "keep" / "runs" / "notes.md").write_text("mine")
    for name in ("my run", "notes.txt", "CON"):
        (tmp_path / "keep" / "runs" / name).mkdir()
        (tmp_path / "keep" / "runs" / name / "readme").write_text("mine")
    before = shards(local_store)
    drop(local_store, run, [2, 3])
    assert shards(local_store) < before
    every_checkpoint_loads(local_store)


def test_foreign_files_beside_the_records_do_not_stop_a_drop(local_store: Store, tmp_path: Path) -> None:
    """A file manager's copy has a name that is no key; another's is a record under a wrong name."""
    run, snapshots = trained(local_store)
    record = tmp_path / "keep" / layout.snapshot_key(snapshots[4].id)
    for name in (f"{record.stem} (copy).json", f"{record.stem}-copy.json", f"{record.name}.orig"):
        record.with_name(name).write_bytes(record.read_bytes())
    before = shards(local_store)
    drop(local_store, run, [2, 3])
    assert shards(local_store) < before
    every_checkpoint_loads(local_store)


def test_a_tombstone_whose_run_was_killed_before_freeing_loses_nothing(store: Store) -> None:
    run, _snapshots = trained(store)
    run.drop([1, 2, 3])
    again = Store.open(store.backend)
    drop(again, again.run("cnn"), [4])
    every_checkpoint_loads(again)


# Two at once


def test_two_runs_that_drop_at_the_same_moment_both_go_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = trained(store, "one")
    trained(store, "two")
    create = store.backend.create

    def overtaken(key: str, data: bytes) -> None:
        if key.startswith(layout.CONDEMNED):
            monkeypatch.setattr(store.backend, "create", create)
            create(key, seal({"shards": ["0" * 16 + "-1"]}))
        create(key, data)

    monkeypatch.setattr(store.backend, "create", overtaken)
    before = shards(store)
    drop(store, one, [2, 3])
    assert shards(store) < before
    assert condemned(store) == {"0" * 16 + "-1"}
    every_checkpoint_loads(store)


def test_a_sentence_that_is_lifted_while_it_is_read_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(store)
    key = layout.condemned_key("9999999998")
    store.backend.create(key, seal({"shards": ["0" * 16 + "-1"]}))
    read = store.backend.read

    def lifted(asked: str, *arguments: Any, **options: Any) -> Any:
        if asked == key:
            store.backend.delete(key)
        return read(asked, *arguments, **options)

    monkeypatch.setattr(store.backend, "read", lifted)
    assert condemned(store) == set()


def test_what_is_condemned_is_written_again(store: Store) -> None:
    _, snapshots = trained(store)
    donor = snapshots[-1]
    store.backend.create(layout.condemned_key("9999999998"), seal({"shards": [*sorted(donor.shards)]}))
    assert condemned(store) == set(donor.shards)
    again = store.save(state(5), meta={"kind": "state"}, donor=donor)
    assert not set(again.shards) & set(donor.shards)


def test_a_sentence_without_words_is_one_of_all_shards(store: Store) -> None:
    """A collector on a full disk has no room for more; it is lifted like any other."""
    _, snapshots = trained(store)
    sentence = layout.condemned_key("9999999998")
    store.backend.create(sentence, b"")
    assert condemned(store) == shards(store)
    again = store.save(state(5), meta={"kind": "state"}, donor=snapshots[-1])
    assert not set(again.shards) & set(snapshots[-1].shards)
    assert store.verify().ok
    collect(store, set(snapshots[0].shards))
    assert keys(store, "gc") == {sentence}  # another's is not ours to lift


def test_collecting_what_is_in_use_deletes_nothing(store: Store) -> None:
    trained(store)
    before = shards(store)
    collect(store, set(before))
    assert shards(store) == before
    assert keys(store, "gc") == set()


# What a killed attempt left

MINE, NEIGHBOUR = "ab" + "0" * 13 + "1", "ab" + "0" * 13 + "2"


def leave_shard(store: Store, writer: str, number: int) -> Any:
    """A shard that no record names yet, as a save under way has it."""
    key = layout.shard_key(f"{writer}-{number}")
    store.backend.create(key, b"half a save")
    return key


def test_the_next_attempt_removes_what_the_killed_one_left(local_store: Store) -> None:
    run, _ = trained(local_store, writer=MINE)
    left = leave_shard(local_store, MINE, 90)
    writer = local_store.backend.writer(layout.shard_key(f"{MINE}-91"))
    writer.append(memoryview(b"half a file"))
    assert clear_leftovers(local_store, run) == 2
    assert left not in keys(local_store, layout.SHARDS)
    every_checkpoint_loads(local_store)
    assert clear_leftovers(local_store, run) == 0
    writer.abort()


def test_what_another_run_has_under_way_is_not_a_leftover(local_store: Store) -> None:
    """Tokens of two runs may begin alike; their shards then lie in one folder."""
    run, _ = trained(local_store, writer=MINE)
    theirs = leave_shard(local_store, NEIGHBOUR, 1)
    writer = local_store.backend.writer(layout.shard_key(f"{NEIGHBOUR}-2"))
    writer.append(memoryview(b"half a file"))
    clear_leftovers(local_store, run)
    writer.commit()
    assert {theirs, layout.shard_key(f"{NEIGHBOUR}-2")} <= keys(local_store, layout.SHARDS)


def test_leftovers_stay_where_locks_do_not_exclude(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = trained(local_store, writer=MINE)
    left = leave_shard(local_store, MINE, 90)
    monkeypatch.setattr(LocalBackend, "exclusive_locks", False)
    assert clear_leftovers(local_store, run) == 0
    assert left in keys(local_store, layout.SHARDS)


@pytest.mark.parametrize("kind", ["snapshots", "attempts"])
def test_damage_elsewhere_in_the_keep_does_not_stop_a_run_from_starting(
    local_store: Store, tmp_path: Path, kind: str
) -> None:
    _run, snapshots = trained(local_store, writer=MINE)
    left = leave_shard(local_store, MINE, 90)
    victim = snapshots[-1].id
    damage(
        tmp_path / "keep" / "snapshots" / victim[:2] / f"{victim}.json"
        if kind == "snapshots"
        else tmp_path / "keep" / "runs" / "cnn" / "attempts" / "9999999998" / "start.json"
    )
    store = Store.open(local_store.backend)
    with pytest.warns(RuntimeWarning, match="leftovers"):
        assert clear_leftovers(store, store.run("cnn")) == 0
    assert left in keys(store, layout.SHARDS)
