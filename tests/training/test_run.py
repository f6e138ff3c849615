import errno
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import modelkeep as mk
from modelkeep.backend import syscalls
from modelkeep.errors import (
    Damaged,
    InvalidName,
    NotFound,
    ParamsChanged,
    StorageError,
    UnknownFormat,
    UnsupportedState,
    UsageError,
)
from modelkeep.keep import Keep
from modelkeep.state import FlatState
from modelkeep.state.compare import differences
from modelkeep.training.run import Run
from modelkeep.values import Json


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    return mk.open(tmp_path / "keep")


def state(step: int, size: int = 8) -> dict[str, object]:
    return {"weights": np.full(size, step, np.float32), "step": step}


def train(keep: Keep, name: str, *steps: int, **metrics: float) -> None:
    with keep.run(name) as run:
        for step in steps:
            run.log({"loss": 1 / (step + 1)}, step=step, epoch=step // 2)
            run.save(state(step), step=step, epoch=step // 2, metrics=metrics)


def damage(keep: Keep, name: str, *, checkpoint: int = 0) -> None:
    """Flip one bit in the tensors of a checkpoint, counted from the newest."""
    (shard,) = keep.snapshot(keep.store.run(name).checkpoints()[checkpoint].snapshot_id).shards
    path = next(Path(keep.url.removeprefix("file://")).rglob(f"{shard}.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


# How a run goes on


def test_the_same_call_starts_a_run_and_goes_on_with_it(keep: Keep) -> None:
    with keep.run("cnn", params={"lr": 0.1}) as run:
        assert run.resumed is None
        assert run.attempt == 1
        run.save(state(5), step=5, epoch=1, wait=True)
        seed = run.seed
    with keep.run("cnn", params={"lr": 0.1}) as run:
        assert run.resumed is not None
        checkpoint, tree = run.resumed
        assert (checkpoint.step, checkpoint.epoch, run.attempt, run.seed) == (5, 1, 2, seed)
        np.testing.assert_array_equal(tree["weights"], np.full(8, 5, np.float32))


def test_every_attempt_draws_the_same_numbers_without_a_seed_in_the_program(keep: Keep) -> None:
    drawn = []
    for _ in range(2):
        with keep.run("cnn"):
            drawn.append((random.random(), np.random.random()))
    assert drawn[0] == drawn[1]


def test_a_seed_that_is_given_is_the_runs_and_another_one_is_a_changed_parameter(keep: Keep) -> None:
    keep.run("cnn", seed=7).close()
    with keep.run("cnn") as run:
        assert run.seed == 7
    with pytest.raises(ParamsChanged, match=r"seed= +7 +8"):
        keep.run("cnn", seed=8)


def test_changed_parameters_are_refused_and_no_attempt_is_started(keep: Keep) -> None:
    keep.run("cnn", params={"lr": 0.1, "epochs": 3}).close()
    with pytest.raises(ParamsChanged, match=r"lr +0\.1 +0\.2"):
        keep.run("cnn", params={"lr": 0.2, "epochs": 3})
    with keep.run("cnn", params={"lr": 0.1, "epochs": 5}) as run:
        assert run.attempt == 2
        assert run.params == {"lr": 0.1, "epochs": 5}


def test_parameters_that_are_not_given_are_those_of_before(keep: Keep) -> None:
    keep.run("cnn", params={"size": (3, 4)}).close()
    with keep.run("cnn") as run:
        assert run.params == {"size": [3, 4]}


def test_parameters_that_were_not_there_before_are_refused(keep: Keep) -> None:
    keep.run("cnn").close()
    with pytest.raises(ParamsChanged, match=r"lr +\(absent\) +0\.1"):
        keep.run("cnn", params={"lr": 0.1})


def test_params_that_a_caller_gets_are_a_copy(keep: Keep) -> None:
    with keep.run("cnn", params={"sizes": [1]}) as run:
        run.params["sizes"].append(2)
        assert run.params == {"sizes": [1]}


def test_new_starts_a_fresh_run_beside_the_old(keep: Keep) -> None:
    train(keep, "cnn", 1)
    names = []
    for _ in range(2):
        with keep.run("cnn", new=True, params={"lr": 1}) as run:
            assert run.resumed is None
            names.append(run.name)
    assert names == ["cnn-2", "cnn-3"]
    assert [one.name for one in keep.runs()] == ["cnn", "cnn-2", "cnn-3"]


def test_a_bad_name_is_refused_with_one_that_would_do(keep: Keep) -> None:
    with pytest.raises(InvalidName, match="my-run"):
        keep.run("my run")


# Forks


def test_a_fork_begins_with_the_checkpoint_and_records_its_parent(keep: Keep) -> None:
    with keep.run("cnn", params={"lr": 0.1}) as parent:
        parent.save(state(3), step=3, epoch=1, metrics={"loss": 0.5})
        parent.save(state(4), step=4, epoch=2)
    wanted = keep.snapshot("run:cnn@3")
    with keep.run("tuned", fork="run:cnn@3", params={"lr": 0.01}) as run:
        assert run.resumed is not None
        checkpoint, tree = run.resumed
        assert (run.name, checkpoint.step, checkpoint.epoch, checkpoint.reason) == ("tuned", 3, 1, "fork")
        assert checkpoint.metrics == {"loss": 0.5}
        np.testing.assert_array_equal(tree["weights"], np.full(8, 3, np.float32))
        assert run.params == {"lr": 0.01}
        assert run.seed == parent.seed
        run.save(state(9), step=9, epoch=3, wait=True)
    assert keep.store.run("tuned").attempts()[0].info["fork"] == {"ref": "run:cnn@3", "snapshot": wanted.id}
    assert keep.snapshot("run:tuned@3").meta["parents"] == [wanted.id]
    keep.store.delete_snapshot(wanted.id)  # the parent lets its checkpoint go
    assert differences(keep.load_state("run:tuned@3"), state(3)) == []


def test_the_call_that_forked_goes_on_with_the_fork_after_a_kill(keep: Keep) -> None:
    train(keep, "cnn", 1, 2)
    for attempt in (1, 2):
        with keep.run("cnn", fork="cnn@1") as run:
            assert (run.name, run.attempt) == ("cnn-2", attempt)
            assert run.resumed is not None
            run.save(state(run.resumed[0].step + 10), step=run.resumed[0].step + 10, epoch=0)
    assert keep.snapshot("run:cnn-2@last").meta["step"] == 21
    with keep.run("cnn", fork="cnn@1", new=True) as run:
        assert run.name == "cnn-3"


def test_a_fork_keeps_its_first_state_when_the_parent_drops_it(keep: Keep) -> None:
    train(keep, "cnn", 1)
    keep.run("tuned", fork="cnn@1").close()
    train(keep, "cnn", 2, 3, 4, 5, 6)
    assert [one.step for one in keep.store.run("cnn").checkpoints()] == [6, 5, 4]
    with keep.run("tuned") as run:
        assert run.resumed is not None
        np.testing.assert_array_equal(run.resumed[1]["weights"], np.full(8, 1, np.float32))


def test_a_fork_of_what_is_not_there_leaves_no_run_behind(keep: Keep) -> None:
    train(keep, "cnn", 1)
    with pytest.raises(NotFound, match="step 1"):
        keep.run("tuned", fork="cnn@7")
    with pytest.raises(UsageError, match="another keep"):
        keep.run("tuned", fork="/elsewhere#cnn@1")
    assert [one.name for one in keep.runs()] == ["cnn"]


# Damage


def test_a_damaged_newest_checkpoint_falls_back_to_the_newest_good_one_and_says_so(keep: Keep) -> None:
    train(keep, "cnn", 1, 2, 3)
    damage(keep, "cnn", checkpoint=0)
    with pytest.warns(RuntimeWarning, match=r"goes on from step 2[^$]*step 3[^$]*weights[^$]*modelkeep verify"):
        run = keep.run("cnn")
    with run:
        assert run.resumed is not None
        assert run.resumed[0].step == 2
        np.testing.assert_array_equal(run.resumed[1]["weights"], np.full(8, 2, np.float32))


def test_retention_never_counts_a_damaged_checkpoint_among_the_last(keep: Keep) -> None:
    train(keep, "cnn", 1, 2, 3)
    damage(keep, "cnn", checkpoint=0)
    with pytest.warns(RuntimeWarning):
        run = keep.run("cnn")
    with run:
        run.retain = mk.retain(last=2)
        run.save(state(4), step=4, epoch=1)
    assert [one.step for one in keep.store.run("cnn").checkpoints()] == [4, 3, 2]


def test_a_run_without_any_whole_checkpoint_is_refused_and_keeps_what_it_has(keep: Keep) -> None:
    train(keep, "cnn", 1, 2)
    damage(keep, "cnn", checkpoint=0)
    damage(keep, "cnn", checkpoint=1)
    with pytest.raises(Damaged, match="no checkpoint that is whole"):
        keep.run("cnn")
    assert len(keep.store.run("cnn").attempts()) == 1
    assert len(keep.store.run("cnn").checkpoints()) == 2


# Saving


def test_a_state_is_saved_as_it_was_when_save_was_called(keep: Keep) -> None:
    with keep.run("cnn") as run:
        weights = np.zeros(1000)
        history: list[int] = [1]
        for step in range(5):
            run.save({"weights": weights, "history": history}, step=step, epoch=0)
            weights += 1
            history.append(step)
    tree = keep.load_state("cnn@last")
    np.testing.assert_array_equal(tree["weights"], np.full(1000, 4.0))
    assert tree["history"] == [1, 0, 1, 2, 3]


def test_arrays_that_nobody_can_write_to_are_not_copied(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = np.zeros(1000)
    frozen.setflags(write=False)
    seen: list[object] = []
    save = keep.store.save

    def spy(tree: object, **options: object) -> object:
        seen.append(tree)
        return save(tree, **options)  # type: ignore[arg-type]

    with keep.run("cnn") as run:
        monkeypatch.setattr(run.store, "save", spy)
        run.save({"frozen": frozen}, step=1, epoch=0, wait=True)
    assert isinstance(seen[0], FlatState)
    assert seen[0].arrays["frozen"] is frozen


def test_unchanged_arrays_are_not_written_again(keep: Keep) -> None:
    big = np.random.default_rng(0).bytes(1 << 20)
    with keep.run("cnn") as run:
        for step in range(3):
            run.save({"frozen": np.frombuffer(big, np.uint8), "step": np.int64(step)}, step=step, epoch=0)
    folder = Path(keep.url.removeprefix("file://")) / "shards"
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 2 << 20


def test_unchanged_arrays_are_not_written_again_after_a_resume(keep: Keep) -> None:
    big = np.frombuffer(np.random.default_rng(0).bytes(1 << 20), np.uint8)
    for step in range(3):
        with keep.run("cnn") as run:
            run.save({"frozen": big, "step": np.int64(step)}, step=step, epoch=0)
    folder = Path(keep.url.removeprefix("file://")) / "shards"
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 2 << 20


def test_a_leaf_that_cannot_be_kept_is_named_at_once(keep: Keep) -> None:
    with keep.run("cnn") as run, pytest.raises(UnsupportedState, match="model/layer"):
        run.save({"model": {"layer": object()}}, step=1, epoch=0)


def test_metadata_says_what_the_checkpoint_is(keep: Keep) -> None:
    with keep.run("cnn", params={"lr": 0.1}, seed=7) as run:
        run.save(state(1), step=1, epoch=0, metrics={"loss": 0.5}, reason="signal", extra_meta={"layers": 3}, wait=True)
        with pytest.raises(UsageError, match="extra_meta has step"):
            run.save(state(2), step=2, epoch=0, extra_meta={"step": 3})
    meta = keep.snapshot("cnn@last").meta
    wanted = {"kind": "checkpoint", "run": "cnn", "attempt": 1, "step": 1, "epoch": 0, "reason": "signal", "seed": 7}
    assert wanted.items() <= meta.items()
    assert (meta["metrics"], meta["params"], meta["layers"]) == ({"loss": 0.5}, {"lr": 0.1}, 3)


def test_by_default_the_last_three_stay_and_retain_may_change_while_it_runs(keep: Keep) -> None:
    with keep.run("cnn") as run:
        for step in range(1, 6):
            run.save(state(step), step=step, epoch=0)
        run.wait()
        assert [one.step for one in keep.store.run("cnn").checkpoints()] == [5, 4, 3]
        run.retain = mk.retain(last=1)
        run.save(state(6), step=6, epoch=0)
    assert [one.step for one in keep.store.run("cnn").checkpoints()] == [6]


def test_a_metric_that_is_nan_is_kept_and_never_best(keep: Keep) -> None:
    with keep.run("cnn") as run:
        run.retain = mk.retain(last=1, best=mk.best("val_loss"))
        for step, loss in enumerate([0.5, float("nan"), 0.9, float("nan")]):
            run.log({"val_loss": loss}, step=step, epoch=0)
            run.save(state(step), step=step, epoch=0, metrics={"val_loss": loss})
    checkpoints = keep.store.run("cnn").checkpoints()
    assert [one.step for one in checkpoints] == [3, 0]
    assert np.isnan(checkpoints[0].metrics["val_loss"])
    assert np.isnan(keep.store.run("cnn").metrics()[1].values["val_loss"])
    assert keep.snapshot("cnn@best:val_loss").meta["step"] == 0


def test_a_clock_that_jumps_back_changes_nothing_of_what_is_newest(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [2e9]
    monkeypatch.setattr("modelkeep.backend.local.time.time", lambda: now[0])
    for step in range(4):
        now[0] -= 1e6
        train(keep, "cnn", step)
    assert keep.snapshot("cnn@last").meta["step"] == 3
    assert [one.step for one in keep.store.run("cnn").checkpoints()] == [3, 2, 1]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Switch a full disk on and off."""
    write = syscalls.write

    def switch(is_full: bool) -> None:
        def fail(descriptor: int, data: memoryview | bytes, offset: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(syscalls, "write", fail if is_full else write)

    yield switch
    monkeypatch.setattr(syscalls, "write", write)


@pytest.mark.parametrize("call", ["save", "wait", "close"])
def test_a_full_disk_is_raised_at_the_next_call_and_what_was_saved_stays(
    keep: Keep, full_disk: Callable[[bool], None], call: str
) -> None:
    run = keep.run("cnn")
    run.save(state(1), step=1, epoch=0, wait=True)
    full_disk(True)
    run.save(state(2), step=2, epoch=0)
    calls: dict[str, Callable[[], None]] = {
        "save": lambda: run.save(state(3), step=3, epoch=0),
        "wait": run.wait,
        "close": run.close,
    }
    with pytest.raises(StorageError, match="no space left on device"):
        calls[call]()
    full_disk(False)
    run.close()
    with keep.run("cnn") as run:
        assert run.resumed is not None
        assert run.resumed[0].step == 1
    assert keep.verify().ok


def test_a_run_goes_on_saving_when_there_is_space_again(keep: Keep, full_disk: Callable[[bool], None]) -> None:
    with keep.run("cnn") as run:
        full_disk(True)
        with pytest.raises(StorageError):
            run.save(state(1), step=1, epoch=0, wait=True)
        full_disk(False)
        run.save(state(2), step=2, epoch=0, wait=True)
    assert keep.snapshot("cnn@last").meta["step"] == 2


def test_a_failed_close_lets_the_run_be_opened_again(keep: Keep, full_disk: Callable[[bool], None]) -> None:
    run = keep.run("cnn")
    full_disk(True)
    run.log({"loss": 1.0}, step=1, epoch=0)
    with pytest.raises(StorageError):
        run.close()
    full_disk(False)
    keep.run("cnn").close()


def test_the_first_error_is_the_one_that_is_seen(keep: Keep, full_disk: Callable[[bool], None]) -> None:
    with pytest.raises(ZeroDivisionError) as caught, keep.run("cnn") as run:
        full_disk(True)
        run.save(state(1), step=1, epoch=0)
        raise ZeroDivisionError
    assert "no space left" in caught.value.__notes__[0]


# Metrics and the end


def test_rows_past_the_checkpoint_that_is_resumed_are_superseded(keep: Keep) -> None:
    with keep.run("cnn") as run:
        for step in (1, 2, 3):
            run.log({"loss": 1.0}, step=step, epoch=0)
            if step == 2:
                run.save(state(step), step=step, epoch=0)
    with keep.run("cnn") as run:
        run.log({"loss": 2.0}, step=3, epoch=0)
        rows = [(row.attempt, row.step, row.superseded) for row in run.metrics()]
    assert rows == [(1, 1, False), (1, 2, False), (1, 3, True), (2, 3, False)]


def test_rows_of_an_attempt_that_left_no_checkpoint_are_all_superseded(keep: Keep) -> None:
    for _ in range(2):
        with keep.run("cnn") as run:
            run.log({"loss": 1.0}, step=0, epoch=0)
    assert [row.superseded for row in keep.store.run("cnn").metrics()] == [True, False]


def test_a_finished_run_says_so_until_it_goes_on(keep: Keep) -> None:
    summary: Json = {"best": float("inf"), "history": {"loss": [float("nan"), 0.5]}}
    with keep.run("cnn") as run:
        assert run.finished is None
        run.save(state(1), step=1, epoch=0)
        run.finish(summary)
    with keep.run("cnn") as run:
        assert isinstance(run.finished, dict)
        assert str(run.finished) == str(summary)
        run.save(state(2), step=2, epoch=0, wait=True)
        assert run.finished is None


# One process, opened again


def test_a_cell_that_is_run_again_closes_the_older_run_and_goes_on_from_it(keep: Keep) -> None:
    older = keep.run("cnn")
    older.save(state(1), step=1, epoch=0)
    with keep.run("cnn") as run:
        assert older.closed
        assert run.resumed is not None
        assert run.resumed[0].step == 1
        with pytest.raises(UsageError, match=r"keep\.run\('cnn'\)"):
            older.save(state(2), step=2, epoch=0)
        older.close()
        assert not run.closed


def test_training_again_with_the_same_run_goes_on_from_what_it_saved(keep: Keep) -> None:
    with keep.run("cnn") as run:
        run.save(state(4), step=4, epoch=1)
        assert run.resumed is not None
        assert run.resumed[0].step == 4
        np.testing.assert_array_equal(run.resumed[1]["weights"], np.full(8, 4, np.float32))


def test_a_closed_run_that_is_trained_with_is_opened_again(keep: Keep) -> None:
    with keep.run("cnn", params={"lr": 1}, new=True) as run:
        run.save(state(4), step=4, epoch=1)
    assert Run.of(run) is run
    assert not run.closed
    assert (run.name, run.attempt, run.resumed is not None) == ("cnn", 2, True)
    run.close()


def test_a_name_is_a_run_in_the_default_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Run.of("cnn") as run:
        assert run.keep == (tmp_path / "keep").as_uri()
    monkeypatch.setenv("MODELKEEP_KEEP", str(tmp_path / "other"))
    with Run.of("cnn") as run:
        assert run.keep == (tmp_path / "other").as_uri()
    with pytest.raises(UsageError, match=r"keep\.run"):
        Run.of(3)  # type: ignore[arg-type]


def test_two_keeps_may_have_runs_of_one_name_open(tmp_path: Path) -> None:
    first, second = (mk.open(tmp_path / name).run("cnn") for name in "ab")
    assert not first.closed
    first.close()
    second.close()


# Notebooks


def test_a_run_and_a_keep_show_themselves_and_let_no_markup_through(keep: Keep) -> None:
    with keep.run("cnn", params={"<b>": "<script>"}) as run:
        run.save(state(1), step=1, epoch=0, metrics={"<i>": 1.0}, wait=True)
        assert repr(run) == f"Run('cnn', attempt 1, seed {run.seed}, in {keep.url})"
        text = run._repr_html_() + keep._repr_html_()
    assert "step 1, epoch 0" in text
    assert "&lt;script&gt;" in text
    for tag in ("<script>", "<b>", "<i>"):
        assert tag not in text
    assert repr(keep) == f"Keep('{keep.url}', 1 run)"


# Places that are no keeps


def test_a_path_that_is_a_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "keep"
    path.write_text("mine")
    with pytest.raises(StorageError, match="is a file"):
        mk.open(path)
    assert path.read_text() == "mine"


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UnknownFormat, match=r"thesis\.txt"):
        mk.open(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_keep_that_is_not_there_is_not_made_where_it_should_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        mk.open(tmp_path / "keep", create=False)
    assert not (tmp_path / "keep").exists()


def test_a_refused_start_is_no_run(keep: Keep) -> None:
    with warnings.catch_warnings(), pytest.raises(UsageError):
        keep.run("cnn", params={"x": object()})
    assert keep.runs() == []
