import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.backend import Backend, LocalBackend
from modelkeep.errors import Damaged, Fenced, InvalidName, UsageError
from modelkeep.snapshot.canonical import seal
from modelkeep.store import Attempt, RunRecord, Store
from modelkeep.values import Json


def commit(store: Store, run: RunRecord, attempt: Attempt, step: int, **metrics: float) -> Any:
    """One checkpoint whose state tells its step."""
    snapshot = store.save({"step": step, "w": np.full(8, step, "f4")}, meta={"kind": "checkpoint", "step": step})
    return run.commit_checkpoint(attempt, snapshot, step=step, epoch=step // 10, metrics=metrics)


@pytest.fixture
def run(store: Store) -> Any:
    return store.run("cnn")


def fresh(run: RunRecord) -> Any:
    """The same run as another process sees it."""
    return RunRecord(run.backend, run.name)


def numbers(run: RunRecord, *, dropped: bool = False) -> Any:
    return [one.number for one in fresh(run).checkpoints(dropped=dropped)]


# Attempts


def test_a_run_exists_once_it_has_an_attempt(store: Store, run: RunRecord) -> None:
    assert not run.exists()
    assert run.attempts() == []
    assert store.runs() == []
    run.start_attempt({})
    assert fresh(run).exists()
    assert store.runs() == ["cnn"]


def test_attempts_come_back_in_order_with_what_was_recorded(run: RunRecord) -> None:
    info: dict[str, Json] = {
        "writer": "00ff" * 4,
        "resumed_from": {"checkpoint": 3, "step": 30},
        "params": {"lr": 0.1, "n": None},
    }
    first, second = run.start_attempt({}), run.start_attempt(info)
    assert fresh(run).attempts() == [first, second]
    assert [first.number, second.number] == [1, 2]
    assert fresh(run).attempts()[1].info == info


def test_a_run_name_that_leads_elsewhere_is_refused(store: Store) -> None:
    with pytest.raises(InvalidName):
        store.run("../other")


def test_of_two_attempts_at_the_same_moment_one_is_told(run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    other = fresh(run)
    seen = run.backend.folders
    listed: list[str] = []

    def list_then_lose(prefix: str) -> Any:
        names = list(seen(prefix))
        if not listed and prefix.endswith("attempts"):
            listed.append(prefix)
            other.start_attempt({"who": "other"})
        return iter(names)

    monkeypatch.setattr(run.backend, "folders", list_then_lose)
    with pytest.raises(Fenced, match="attempt 1"):
        run.start_attempt({"who": "me"})
    assert [attempt.info for attempt in fresh(run).attempts()] == [{"who": "other"}]


def test_a_folder_of_an_attempt_that_was_killed_before_its_record_is_no_attempt(
    local_store: Store, tmp_path: Path
) -> None:
    run = local_store.run("cnn")
    (tmp_path / "keep" / "runs" / "cnn" / "attempts" / "9999999998").mkdir(parents=True)
    assert not run.exists()
    assert run.start_attempt({}).number == 1


def test_an_attempt_whose_record_is_no_file_any_more_keeps_its_number(local_store: Store, tmp_path: Path) -> None:
    run = local_store.run("cnn")
    first = run.start_attempt({})
    run.start_attempt({})
    record = tmp_path / "keep" / "runs" / "cnn" / "attempts" / "9999999997" / "start.json"
    record.unlink()
    record.symlink_to("/etc/hostname")
    with pytest.raises(Fenced, match="attempt 2"):
        commit(local_store, run, first, 1)
    assert fresh(run).start_attempt({}).number == 3


# Metrics


def test_metrics_come_back_in_order_and_exactly(run: RunRecord) -> None:
    attempt = run.start_attempt({})
    odd = {"loss": math.nan, "up": math.inf, "down": -math.inf, "zero": -0.0, "third": 1 / 3, "tiny": 5e-324}
    run.append_metrics(attempt, [{"step": 1, "epoch": 0, "values": odd}, {"step": 2, "epoch": 0, "values": {}}])
    run.append_metrics(attempt, [{"step": 3, "epoch": 1, "values": {"loss": np.float32(0.1)}, "time": 12.5}])
    rows = fresh(run).metrics()
    assert [(row.step, row.epoch) for row in rows] == [(1, 0), (2, 0), (3, 1)]
    assert math.isnan(rows[0].values["loss"])
    assert {name: value for name, value in rows[0].values.items() if name != "loss"} == {
        name: value for name, value in odd.items() if name != "loss"
    }
    assert math.copysign(1, rows[0].values["zero"]) == -1
    assert rows[2].time == 12.5
    assert rows[2].values["loss"] == float(np.float32(0.1))


def test_no_rows_are_no_segment(run: RunRecord) -> None:
    attempt = run.start_attempt({})
    run.append_metrics(attempt, [])
    assert run.metrics() == []
    assert len(list(run.backend.list("runs/cnn"))) == 1


def test_rows_that_a_later_attempt_computes_again_are_superseded(run: RunRecord) -> None:
    first = run.start_attempt({})
    run.append_metrics(first, [{"step": step, "epoch": 0, "values": {}} for step in (10, 20, 30)])
    second = run.start_attempt({"resumed_from": {"checkpoint": 2, "step": 20}})
    run.append_metrics(second, [{"step": step, "epoch": 0, "values": {}} for step in (30, 40)])
    run.start_attempt({"resumed_from": {"checkpoint": 3, "step": 30}})
    rows = [(row.attempt, row.step, row.superseded) for row in fresh(run).metrics()]
    assert rows == [(1, 10, False), (1, 20, False), (1, 30, True), (2, 30, False), (2, 40, True)]


def test_an_attempt_that_found_no_checkpoint_supersedes_everything(run: RunRecord) -> None:
    first = run.start_attempt({})
    run.append_metrics(first, [{"step": 0, "epoch": 0, "values": {}}])
    run.start_attempt({"resumed_from": None})
    assert [row.superseded for row in run.metrics()] == [True]


def test_two_writers_of_one_attempt_do_not_overwrite_each_other(run: RunRecord) -> None:
    attempt, zombie = run.start_attempt({}), fresh(run)
    run.append_metrics(attempt, [{"step": 1, "epoch": 0, "values": {}}])
    with pytest.raises(Fenced, match="another process"):
        zombie.append_metrics(attempt, [{"step": 2, "epoch": 0, "values": {}}])
    assert [row.step for row in run.metrics()] == [1]


# Checkpoints


def test_a_checkpoint_comes_back_as_it_was_committed(store: Store, run: RunRecord) -> None:
    attempt = run.start_attempt({})
    made = commit(store, run, attempt, 10, loss=math.nan, accuracy=0.1)
    (found,) = fresh(run).checkpoints()
    assert math.isnan(found.metrics["loss"])
    assert found.metrics["accuracy"] == made.metrics["accuracy"]
    for name in ("number", "snapshot_id", "step", "epoch", "time", "attempt", "reason", "exact", "dropped"):
        assert getattr(found, name) == getattr(made, name)


def test_checkpoints_are_listed_newest_first(store: Store, run: RunRecord) -> None:
    attempt = run.start_attempt({})
    for step in range(1, 13):
        commit(store, run, attempt, step)
    assert numbers(run) == list(range(12, 0, -1))


def test_a_number_is_never_used_twice_even_after_drops(store: Store, run: RunRecord) -> None:
    attempt = run.start_attempt({})
    for step in range(1, 6):
        commit(store, run, attempt, step)
    run.drop([1, 2, 3, 4])
    assert numbers(run) == [5]
    assert commit(store, run, attempt, 6).number == 6
    run.drop([5])
    assert commit(store, fresh(run), attempt, 7).number == 7
    assert numbers(run, dropped=True) == [7, 6, 5, 4, 3, 2, 1]
    assert [one.dropped for one in run.checkpoints(dropped=True)] == [False, False] + [True] * 5


def test_the_newest_checkpoint_is_never_dropped(store: Store, run: RunRecord) -> None:
    attempt = run.start_attempt({})
    for step in range(1, 4):
        commit(store, run, attempt, step)
    with pytest.raises(UsageError, match="checkpoint 3 is the newest"):
        run.drop([1, 3])
    assert numbers(run) == [3, 2, 1]


def test_dropping_twice_or_nothing_is_fine(store: Store, run: RunRecord) -> None:
    attempt = run.start_attempt({})
    for step in range(1, 4):
        commit(store, run, attempt, step)
    run.drop([])
    run.drop([1])
    run.drop([1])
    assert len(list(run.backend.list("runs/cnn/dropped"))) == 1
    assert numbers(run) == [3, 2]


def test_an_attempt_is_fenced_by_a_newer_one(store: Store, run: RunRecord) -> None:
    zombie = run.start_attempt({})
    commit(store, run, zombie, 1)
    newer = fresh(run).start_attempt({})
    with pytest.raises(Fenced, match="attempt 2 has begun since attempt 1"):
        commit(store, run, zombie, 2)
    assert numbers(run) == [1]
    assert commit(store, fresh(run), newer, 2).number == 2


def test_an_attempt_that_is_fenced_while_it_commits_is_told_although_its_checkpoint_is_there(
    store: Store, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    zombie = run.start_attempt({})
    create = run.backend.create

    def overtaken(key: str, data: bytes) -> None:
        if "/checkpoints/" in key:
            monkeypatch.setattr(run.backend, "create", create)
            fresh(run).start_attempt({})
        create(key, data)

    monkeypatch.setattr(run.backend, "create", overtaken)
    with pytest.raises(Fenced, match="attempt 2"):
        commit(store, run, zombie, 1)
    assert numbers(run) == [1]


@pytest.mark.parametrize("seen", [False, True])
def test_what_a_newer_attempt_commits_is_the_newest_whenever_an_older_one_wakes_up(
    store: Store, run: RunRecord, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    """Where no lock excludes: a process that stood still in the listing committed a number above the newer one's."""
    zombie = run.start_attempt({})
    commit(store, run, zombie, 1)
    look = run.backend.list

    def overtaken(prefix: str, **options: Any) -> Any:
        if not prefix.endswith("/checkpoints"):
            return look(prefix, **options)
        monkeypatch.undo()
        before, newer = list(look(prefix, **options)), fresh(run).start_attempt({})
        for step in (2, 3):
            commit(store, fresh(run), newer, step)
        return look(prefix, **options) if seen else iter(before)

    monkeypatch.setattr(run.backend, "list", overtaken)
    with pytest.raises(Fenced, match="attempt 2 has begun since attempt 1"):
        commit(store, run, zombie, 2)
    assert [(one.number, one.step, one.attempt) for one in fresh(run).checkpoints()] == [
        (3, 3, 2),
        (2, 2, 2),
        (1, 1, 1),
    ]


def test_a_number_that_an_older_attempt_takes_meanwhile_costs_the_newer_one_nothing(
    store: Store, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    zombie, newer = run.start_attempt({}), fresh(run).start_attempt({})
    look, late = run.backend.size, store.save({"step": 0}, meta={})

    def overtaken(key: str) -> int:
        if "/attempts/" in key:  # the look whether there is a newer one, which the older has behind it
            monkeypatch.undo()
            monkeypatch.setattr(RunRecord, "_must_be_newest", lambda run, attempt: None)
            fresh(run).commit_checkpoint(zombie, late, step=0, epoch=0)
            monkeypatch.undo()
        return look(key)

    monkeypatch.setattr(run.backend, "size", overtaken)
    assert commit(store, run, newer, 1).number == 2
    assert [one.attempt for one in fresh(run).checkpoints()] == [2, 1]


def test_of_two_attempts_that_commit_the_same_number_one_is_fenced(store: Store, run: RunRecord) -> None:
    """As on a place whose locks do not exclude: two threads with handles of their own, one attempt."""
    attempt = run.start_attempt({})
    snapshot = store.save({"w": np.ones(3)}, meta={})
    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    def go(record: RunRecord) -> None:
        barrier.wait()
        for step in range(25):
            try:
                outcomes.append(str(record.commit_checkpoint(attempt, snapshot, step=step, epoch=0).number))
            except Fenced:
                outcomes.append("fenced")

    threads = [threading.Thread(target=go, args=(fresh(run),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [int(outcome) for outcome in outcomes if outcome != "fenced"]
    assert len(outcomes) == 100
    assert sorted(won) == sorted(set(won)) == sorted(numbers(run))


def test_a_commit_does_not_read_what_the_run_has_logged(
    store: Store, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A week of training has hundreds of thousands of metric segments; a commit must not list them."""
    attempt = run.start_attempt({})
    for step in range(50):
        run.append_metrics(attempt, [{"step": step, "epoch": 0, "values": {}}])
    seen = []
    listing = run.backend.list

    def counted(prefix: str, **options: Any) -> Any:
        for entry in listing(prefix, **options):
            seen.append(entry.key)
            yield entry

    monkeypatch.setattr(run.backend, "list", counted)
    commit(store, run, attempt, 1)
    assert fresh(run).exists()
    assert len(fresh(run).attempts()) == 1
    fresh(run).start_attempt({})
    assert not [key for key in seen if "/metrics/" in key]


def test_a_commit_and_the_newest_look_at_no_older_checkpoint(
    store: Store, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of ten thousand checkpoints names the newest as fast as one of ten."""
    attempt = run.start_attempt({})
    for step in range(20):
        commit(store, run, attempt, step)
    seen = []
    listing = run.backend.list

    def counted(prefix: str, **options: Any) -> Any:
        for entry in listing(prefix, **options):
            seen.append(entry.key)
            yield entry

    monkeypatch.setattr(run.backend, "list", counted)
    commit(store, run, attempt, 20)
    assert next(fresh(run).iterate_checkpoints()).number == 21
    assert run.finished() is None
    assert len([key for key in seen if "/checkpoints/" in key]) <= 3


def test_dropping_reads_each_tombstone_once(store: Store, run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten thousand drops behind it a run must not read ten thousand tombstones at each save."""
    attempt = run.start_attempt({})
    for step in range(1, 21):
        commit(store, run, attempt, step)
        if step > 1:
            run.drop([step - 1])
    read, reads = run.backend.read, []

    def counted(key: str, *arguments: Any, **options: Any) -> Any:
        reads.append(key)
        return read(key, *arguments, **options)

    monkeypatch.setattr(run.backend, "read", counted)
    for _ in range(3):
        assert len(run.dropped()) == 19
        run.checkpoints()
    assert len([key for key in reads if "/dropped/" in key]) <= 19


# The end


def test_a_finished_run_says_so_until_a_later_checkpoint_goes_on(store: Store, run: RunRecord) -> None:
    attempt = run.start_attempt({})
    assert run.finished() is None
    commit(store, run, attempt, 10)
    assert run.finished() is None
    run.finish(attempt, {"epochs": 3, "stopped": False})
    assert fresh(run).finished() == {"epochs": 3, "stopped": False}
    later = run.start_attempt({"resumed_from": {"checkpoint": 1, "step": 10}})
    assert fresh(run).finished() is not None
    commit(store, run, later, 20)
    assert fresh(run).finished() is None
    run.finish(later, {"epochs": 6})
    assert fresh(run).finished() == {"epochs": 6}


def test_an_attempt_that_was_fenced_does_not_end_the_run_of_the_newer(store: Store, run: RunRecord) -> None:
    """The newer attempt goes on; a start that found the run finished would train no more."""
    zombie = run.start_attempt({})
    commit(store, run, zombie, 10)
    fresh(run).start_attempt({"resumed_from": {"checkpoint": 1, "step": 10}})
    with pytest.raises(Fenced, match="attempt 2 has begun since attempt 1"):
        run.finish(zombie, "done")
    assert fresh(run).finished() is None


# What somebody else may have written


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["checkpoints", "dropped", "attempts", "finished"])
def test_a_flipped_bit_in_a_record_is_damage_that_names_its_key(local_store: Store, tmp_path: Path, kind: str) -> None:
    run = local_store.run("cnn")
    attempt = run.start_attempt({})
    commit(local_store, run, attempt, 1)
    commit(local_store, run, attempt, 2)
    run.drop([1])
    run.finish(attempt, {})
    for path in (tmp_path / "keep" / "runs" / "cnn" / kind).rglob("*.json"):
        flip(path)
    again = fresh(run)
    with pytest.raises(Damaged, match=f"runs/cnn/{kind}/") as caught:
        {
            "checkpoints": again.checkpoints,
            "dropped": again.checkpoints,
            "attempts": again.attempts,
            "finished": again.finished,
        }[kind]()
    assert caught.value.key.startswith(f"runs/cnn/{kind}/")


@pytest.mark.parametrize(
    ("key", "document", "verb"),
    [
        ("checkpoints/9999999998", {}, "checkpoints"),
        ("checkpoints/9999999998", {"number": "1", "snapshot": "x"}, "checkpoints"),
        ("dropped/9999999998", {}, "dropped"),
        ("dropped/9999999998", {"numbers": ["one"]}, "dropped"),
        ("dropped/9999999998", {"numbers": 3}, "checkpoints"),
        ("attempts/9999999998/start", {}, "attempts"),
        ("attempts/9999999998/start", {"number": 1, "time": "now", "info": {}}, "attempts"),
        ("attempts/9999999998/start", {"number": 1, "time": 0.5, "info": []}, "attempts"),
        ("finished/9999999998", {}, "finished"),
    ],
)
def test_a_sealed_record_of_another_kind_is_damage_that_names_its_key(
    backend: Backend, key: str, document: dict[str, Json], verb: Any
) -> None:
    """A digest proves that bytes are those that somebody wrote, not that they make sense here."""
    Store.open(backend).backend.create(f"runs/cnn/{key}.json", seal(document))
    with pytest.raises(Damaged, match=f"runs/cnn/{key}"):
        getattr(RunRecord(backend, "cnn"), verb)()


@pytest.mark.parametrize("rows", [3, [3], [{}], [{"step": 1, "epoch": 0, "time": 0.5, "values": {"a": "x"}}]])
def test_sealed_metrics_that_make_no_sense_are_damage_that_names_their_key(run: RunRecord, rows: Any) -> None:
    attempt = run.start_attempt({})
    key = "runs/cnn/attempts/9999999998/metrics/0000000001.json"
    run.backend.create(key, seal({"rows": rows}))
    assert attempt.number == 1
    with pytest.raises(Damaged, match="metrics/0000000001"):
        run.metrics()


def test_metrics_that_can_be_read_are_returned_when_somebody_is_told_of_the_others(
    local_store: Store, tmp_path: Path
) -> None:
    run = local_store.run("cnn")
    first = run.start_attempt({})
    for step in (10, 20, 30):
        run.append_metrics(first, [{"step": step, "epoch": 0, "values": {"loss": 1.0}}])
    second = run.start_attempt({"resumed_from": {"checkpoint": 1, "step": 10}})
    run.append_metrics(second, [{"step": 20, "epoch": 0, "values": {"loss": 2.0}}])
    folder = tmp_path / "keep" / "runs" / "cnn" / "attempts"
    flip(folder / "9999999998" / "metrics" / "0000000002.json")
    told: list[str] = []
    rows = fresh(run).metrics(on_damage=lambda key, _: told.append(key))
    assert [(row.attempt, row.step, row.superseded) for row in rows] == [(1, 10, False), (1, 30, True), (2, 20, False)]
    assert told == ["runs/cnn/attempts/9999999998/metrics/0000000002.json"]
    flip(folder / "9999999998" / "start.json")
    assert fresh(run).metrics(on_damage=lambda key, _: told.append(key)) == rows
    assert told[1] == "runs/cnn/attempts/9999999998/start.json"
    with pytest.raises(Damaged):
        fresh(run).metrics()


def test_a_metric_that_is_no_number_is_damage_that_names_its_key_once(run: RunRecord) -> None:
    run.start_attempt({})
    key = "runs/cnn/attempts/9999999998/metrics/0000000001.json"
    values: dict[str, Json] = {"loss": {"$": "float", "value": "north"}}
    run.backend.create(key, seal({"rows": [{"step": 1, "epoch": 0, "time": 0.5, "values": values}]}))
    with pytest.raises(Damaged) as caught:
        run.metrics()
    assert str(caught.value).count(key) == 1
    assert caught.value.key == key


def test_a_checkpoint_under_another_number_is_damage(store: Store, run: RunRecord) -> None:
    attempt = run.start_attempt({})
    commit(store, run, attempt, 1)
    data = run.backend.read("runs/cnn/checkpoints/9999999998.json")
    run.backend.create("runs/cnn/checkpoints/9999999990.json", data)
    with pytest.raises(Damaged, match="9999999990"):
        run.checkpoints()


def test_foreign_files_beside_a_run_are_passed_over(local_store: Store, tmp_path: Path) -> None:
    run = local_store.run("cnn")
    attempt = run.start_attempt({})
    commit(local_store, run, attempt, 1)
    for name in ("checkpoints/notes.txt", "checkpoints/9999999998.json.orig", "dropped/old.json", "finished/x"):
        path = tmp_path / "keep" / "runs" / "cnn" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    run.finish(attempt, "done")
    assert numbers(run) == [1]
    assert fresh(run).finished() == "done"
    assert commit(local_store, run, attempt, 2).number == 2


def test_two_keeps_do_not_see_each_others_runs(tmp_path: Path) -> None:
    one, other = (Store.open(LocalBackend(tmp_path / name)) for name in ("one", "other"))
    one.run("cnn").start_attempt({})
    assert other.runs() == []
