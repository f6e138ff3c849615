import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import Damaged, InvalidRef, NotFound, UsageError
from modelkeep.store import Attempt, Checkpoint, RunRecord, Store, find_checkpoint, newest_good
from modelkeep.values import Ref

LOSSES = {1: 0.5, 2: 0.2, 3: math.nan, 4: 0.9, 5: 0.3}


@pytest.fixture
def run(store: Store) -> Any:
    """Checkpoints at steps 10 to 50, epochs 1 to 5; the loss is best at 20, and is NaN at 30."""
    return trained(store, "cnn")


@pytest.fixture
def local_run(local_store: Store) -> Any:
    return trained(local_store, "cnn")


def trained(store: Store, name: str, losses: Any = LOSSES) -> Any:
    run = store.run(name)
    attempt = run.start_attempt({})
    for number, loss in losses.items():
        commit(store, run, attempt, 10 * number, number, loss=loss)
    return run


def commit(store: Store, run: RunRecord, attempt: Attempt, step: int, epoch: int, **metrics: float) -> Any:
    tree = {"step": step, "w": np.full(100, step, "f4")}
    snapshot = store.save(tree, meta={"kind": "checkpoint", "run": run.name, "step": step, "epoch": epoch})
    return run.commit_checkpoint(attempt, snapshot, step=step, epoch=epoch, metrics=metrics)


def step_of(store: Store, ref: Any) -> Any:
    return store.load(store.resolve(ref))["step"]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


# REFs of runs


@pytest.mark.parametrize(
    ("ref", "step"),
    [
        ("run:cnn@last", 50),
        ("run:cnn", 50),
        ("cnn", 50),
        ("cnn@last", 50),
        ("run:cnn@30", 30),
        ("cnn@30", 30),
        ("run:cnn@epoch:2", 20),
        ("run:cnn@best:loss", 20),
        (Ref("run", "cnn", "best:loss:min"), 20),
        (Ref("run", "cnn", "best:loss:max"), 40),
        (Ref("run", "cnn", "last"), 50),
    ],
)
def test_a_ref_names_the_checkpoint_that_it_says(store: Store, run: RunRecord, ref: Any, step: int) -> None:
    assert step_of(store, ref) == step


def test_a_step_that_was_computed_twice_means_the_newer(store: Store, run: RunRecord) -> None:
    attempt = run.start_attempt({"resumed_from": {"checkpoint": 2, "step": 20}})
    again = commit(store, run, attempt, 30, 3, loss=0.25)
    assert find_checkpoint(store, Ref.parse("cnn@30")).number == again.number
    assert find_checkpoint(store, Ref.parse("cnn@epoch:3")).number == again.number


def test_a_metric_that_is_better_when_larger_is_taken_so(store: Store) -> None:
    run = store.run("cnn")
    attempt = run.start_attempt({})
    for step, accuracy in [(10, 0.1), (20, 0.9), (30, 0.4)]:
        commit(store, run, attempt, step, 0, val_accuracy=accuracy)
    assert step_of(store, "cnn@best:val_accuracy") == 20


def test_dropped_checkpoints_are_not_found(store: Store, run: RunRecord) -> None:
    run.drop([2, 3])
    assert step_of(store, "cnn@best:loss") == 50
    with pytest.raises(NotFound, match=r"cnn@30: .*step 50"):
        store.resolve("cnn@30")


def test_last_passes_over_a_record_that_cannot_be_read_and_says_so(
    local_store: Store, local_run: RunRecord, tmp_path: Path
) -> None:
    damage(tmp_path / "keep" / "runs" / "cnn" / "checkpoints" / "9999999994.json")
    with pytest.warns(RuntimeWarning, match="9999999994"):
        assert step_of(local_store, "cnn@last") == 40


@pytest.mark.parametrize("ref", ["cnn@last", "cnn@30", "cnn@epoch:9", "cnn@best:loss"])
def test_a_run_of_which_no_record_can_be_read_is_damaged_and_names_them(
    local_store: Store, local_run: RunRecord, tmp_path: Path, ref: str
) -> None:
    paths = sorted((tmp_path / "keep" / "runs" / "cnn" / "checkpoints").iterdir())
    for path in paths:
        damage(path)
    with pytest.raises(Damaged, match="all checkpoints are damaged") as caught:
        local_store.resolve(ref)
    assert [str(caught.value).count(path.name) for path in paths] == [1] * len(paths)
    assert caught.value.key == f"runs/cnn/checkpoints/{paths[0].name}"


def test_a_step_that_may_be_the_damaged_one_is_not_said_to_be_absent(
    local_store: Store, local_run: RunRecord, tmp_path: Path
) -> None:
    damage(tmp_path / "keep" / "runs" / "cnn" / "checkpoints" / "9999999996.json")
    for ref in ("cnn@30", "cnn@epoch:3", "cnn@best:loss"):
        with pytest.raises(Damaged, match=r"it may be one of them: runs/cnn/checkpoints/9999999996\.json.*step 50"):
            local_store.resolve(ref)


def test_a_step_that_is_absent_is_so_whatever_tombstone_is_damaged(
    local_store: Store, local_run: RunRecord, tmp_path: Path
) -> None:
    local_run.drop([1])
    damage(tmp_path / "keep" / "runs" / "cnn" / "dropped" / "9999999998.json")
    with pytest.raises(NotFound, match="no such checkpoint"):
        Store.open(local_store.backend).resolve("cnn@35")


# What is not there


def test_a_run_that_is_not_there_is_answered_with_the_closest_names(store: Store) -> None:
    for name in ("cnn-small", "cnn-large", "resnet"):
        trained(store, name, {1: 0.5})
    with pytest.raises(NotFound, match=r"there is no run cnn-smal .*there is cnn-small"):
        store.resolve("run:cnn-smal")


def test_an_empty_keep_says_that_there_is_nothing(store: Store) -> None:
    with pytest.raises(NotFound, match="nothing yet"):
        store.resolve("run:cnn@last")


def test_a_run_without_checkpoints_says_so(store: Store) -> None:
    store.run("cnn").start_attempt({})
    for ref in ("cnn@last", "cnn@30", "cnn@epoch:1"):
        with pytest.raises(NotFound, match="nothing yet"):
            store.resolve(ref)


def test_a_step_that_is_not_there_is_answered_with_those_that_are_up_to_eight(store: Store) -> None:
    trained(store, "cnn", dict.fromkeys(range(1, 13), 0.5))
    with pytest.raises(NotFound) as caught:
        store.resolve("run:cnn@35")
    assert len(re.findall(r"step \d+", str(caught.value))) == 8
    assert "4 more" in str(caught.value)


def test_a_metric_that_is_not_there_is_answered_with_those_that_are(store: Store, run: RunRecord) -> None:
    with pytest.raises(NotFound, match=r"no metric los; its checkpoints have loss"):
        store.resolve("cnn@best:los")


def test_a_metric_that_is_nan_everywhere_is_never_best(store: Store) -> None:
    trained(store, "cnn", {1: math.nan, 2: math.nan})
    with pytest.raises(NotFound, match="cnn"):
        store.resolve("cnn@best:loss")


def test_a_best_that_is_neither_min_nor_max_is_refused(store: Store, run: RunRecord) -> None:
    with pytest.raises((UsageError, NotFound), match="least"):
        find_checkpoint(store, Ref("run", "cnn", "best:loss:least"))


def test_a_ref_that_does_not_parse_is_refused(store: Store) -> None:
    with pytest.raises(InvalidRef):
        store.resolve("run:cnn@best")


def test_a_model_is_answered_with_the_runs(store: Store, run: RunRecord) -> None:
    with pytest.raises(NotFound, match="cnn"):
        store.resolve("model:cnn@champion")


# Snapshots


def test_a_snapshot_is_named_by_its_id_or_a_prefix_of_it(store: Store, run: RunRecord) -> None:
    snapshot = store.resolve("cnn@30")
    assert store.resolve(snapshot.id) == snapshot
    assert store.resolve(snapshot.id[:8]) == snapshot
    assert store.resolve(f"snapshot:{snapshot.id[:20]}") == snapshot


def test_a_prefix_of_no_snapshot_is_not_found(store: Store, run: RunRecord) -> None:
    with pytest.raises(NotFound, match="00000000"):
        store.resolve("00000000")
    with pytest.raises(NotFound, match="0" * 64):
        store.resolve("0" * 64)


def test_a_copy_beside_a_record_is_no_second_snapshot(local_store: Store, local_run: RunRecord, tmp_path: Path) -> None:
    snapshot = local_store.resolve("cnn@30")
    record = tmp_path / "keep" / "snapshots" / snapshot.id[:2] / f"{snapshot.id}.json"
    for name in (f"{snapshot.id}.json.orig", f"{snapshot.id}-copy.json"):
        record.with_name(name).write_bytes(record.read_bytes())
    assert local_store.resolve(snapshot.id[:10]) == snapshot


def test_a_prefix_of_two_snapshots_is_refused_with_both(
    local_store: Store, local_run: RunRecord, tmp_path: Path
) -> None:
    snapshot = local_store.resolve("cnn@30")
    twin = snapshot.id[:10] + ("0" if snapshot.id[10] != "0" else "1") + snapshot.id[11:]
    local_store.backend.create(f"snapshots/{twin[:2]}/{twin}.json", b"x")
    with pytest.raises(UsageError, match="2 snapshots") as caught:
        local_store.resolve(snapshot.id[:10])
    assert snapshot.id in str(caught.value)
    assert twin in str(caught.value)
    assert local_store.resolve(snapshot.id[:11]) == snapshot


# The newest that is good


def told(store: Store, run: RunRecord) -> Any:
    """What `newest_good` returns, and the names of the damaged ones that it tells of."""
    found: list[str] = []
    return newest_good(store, run, lambda what, error: found.append(f"{what}: {error}")), found


def test_the_newest_checkpoint_is_read_whole(store: Store, run: RunRecord) -> None:
    good, damaged = told(store, run)
    assert good is not None
    checkpoint, snapshot, tree = good
    assert (checkpoint.number, checkpoint.step, tree["step"]) == (5, 50, 50)
    assert snapshot.id == checkpoint.snapshot_id
    assert damaged == []


def test_a_run_without_checkpoints_has_no_good_one(store: Store) -> None:
    assert told(store, store.run("cnn")) == (None, [])


@pytest.mark.parametrize("kind", ["shard", "record", "checkpoint"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(
    local_store: Store, local_run: RunRecord, tmp_path: Path, kind: str
) -> None:
    for checkpoint in local_run.checkpoints()[:2]:
        damage(file_of(local_store, tmp_path / "keep", checkpoint, kind))
    good, damaged = told(local_store, local_run)
    assert good is not None
    assert good[0].number == 3
    assert good[2]["step"] == 30
    assert len(damaged) == 2


@pytest.mark.parametrize("kind", ["shard", "record"])
def test_a_checkpoint_whose_files_are_gone_is_told_and_the_one_before_is_taken(
    local_store: Store, local_run: RunRecord, tmp_path: Path, kind: str
) -> None:
    file_of(local_store, tmp_path / "keep", local_run.checkpoints()[0], kind).unlink()
    good, damaged = told(local_store, local_run)
    assert good is not None
    assert good[0].number == 4
    assert len(damaged) == 1


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_not_begun_anew(
    local_store: Store, local_run: RunRecord, tmp_path: Path
) -> None:
    for checkpoint in local_run.checkpoints():
        damage(file_of(local_store, tmp_path / "keep", checkpoint, "shard"))
    with pytest.raises(Damaged, match="cnn"):
        told(local_store, local_run)


def test_a_damaged_tombstone_does_not_stand_in_the_way(
    local_store: Store, local_run: RunRecord, tmp_path: Path
) -> None:
    local_run.drop([1, 2])
    damage(tmp_path / "keep" / "runs" / "cnn" / "dropped" / "9999999998.json")
    run = type(local_run)(local_store.backend, "cnn")
    good, damaged = told(local_store, run)
    assert good is not None
    assert good[0].number == 5
    assert "dropped/9999999998" in damaged[0]


def file_of(store: Store, keep: Path, checkpoint: Checkpoint, kind: str) -> Any:
    if kind == "checkpoint":
        return keep / "runs" / "cnn" / "checkpoints" / f"{9_999_999_999 - checkpoint.number}.json"
    if kind == "record":
        return keep / "snapshots" / checkpoint.snapshot_id[:2] / f"{checkpoint.snapshot_id}.json"
    (shard,) = store.snapshot(checkpoint.snapshot_id).shards
    return keep / "shards" / shard[:2] / f"{shard}.safetensors"
