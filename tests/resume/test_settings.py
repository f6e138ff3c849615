"""A resume with other settings is refused by their names; a second fit after compile is a phase of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import modelkeep as mk
from modelkeep.errors import NotExact, StorageError, UsageError

X = np.random.default_rng(0).random((64, 4), "float32")
Y = X.sum(1)


class Killed(Exception):
    """Stands for a process that died inside an epoch."""


class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 4:
            raise Killed


def model(loss: str = "mse", optimizer: Any = "adam", rate: float = 0.5) -> keras.Model:
    layers = [keras.layers.Dense(3), keras.layers.Dropout(rate), keras.layers.Dense(1)]
    built = keras.Sequential([keras.Input((4,)), *layers])
    built.compile(optimizer, loss)
    return built


def fit(keep: Path, built: keras.Model, x: Any = X, y: Any = Y, *, run: Any = None, **arguments: Any) -> Any:
    chosen = {"epochs": 2, "batch_size": 8, "verbose": 0, "checkpoint": mk.every(steps=1), **arguments}
    return mk.keras.fit(built, x, y, run=run or mk.open(keep).run("r", seed=1), **chosen)


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A keep whose run stands inside its first epoch."""
    with pytest.raises(Killed):
        fit(tmp_path / "keep", model(), callbacks=[Kill()])
    return tmp_path / "keep"


OTHER: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "batch size": ({}, {"batch_size": 16}, "batch_size was 8 and is 16"),
    "a batch size whose epoch is shorter": ({}, {"batch_size": 32}, "steps was 8 and is 2"),
    "less data": ({}, {"x": X[:32], "y": Y[:32]}, "rows was 64 and is 32"),
    "other values": ({}, {"x": X * 2}, "first_batch"),
    "other order": ({}, {"shuffle": False}, "shuffle was True and is False"),
    "weights": ({}, {"sample_weight": np.ones(64)}, "parts"),
    "validation": ({}, {"validation_data": (X, Y)}, "validation: kind was (absent)"),
    "class weights": ({}, {"class_weight": {0: 1.0}}, "class_weight"),
    "loss": ({"loss": "mae"}, {}, "loss was 'mse' and is 'mae'"),
    "optimizer": ({"optimizer": "sgd"}, {}, "optimizer.class was 'Adam' and is 'SGD'"),
    "learning rate": ({"optimizer": keras.optimizers.Adam(0.5)}, {}, "learning_rate"),
    "layer": ({"rate": 0.1}, {}, "layer 2 Dropout is configured otherwise"),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_setting_is_refused_by_its_name(name: str, interrupted: Path) -> None:
    of_model, of_fit, text = OTHER[name]
    with pytest.raises(NotExact) as caught:
        fit(interrupted, model(**of_model), **of_fit)
    assert text in str(caught.value)


def test_exact_false_begins_the_epoch_anew_where_its_batches_are_others(interrupted: Path) -> None:
    run = mk.open(interrupted).run("r", exact=False)
    with pytest.warns(RuntimeWarning, match="batch_size was 8 and is 32"):
        history = fit(interrupted, model(), batch_size=32, exact=False, run=run)
    assert history.epoch == [0, 1]
    assert not run.exact


def test_a_rate_that_a_callback_has_set_is_not_another_setting(tmp_path: Path) -> None:
    slower = keras.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=9, cooldown=0)
    built = model()
    run = mk.open(tmp_path / "keep").run("r", seed=1)
    fit(tmp_path, built, run=run, epochs=3, callbacks=[slower])
    assert fit(tmp_path, built, run=run, epochs=4, callbacks=[slower]).epoch == [0, 1, 2, 3]


SCRIPT = """
import os, sys
import keras, numpy as np, modelkeep as mk
folder, die_at, freeze = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "freeze"
run = mk.open(folder).run("phases", seed=1)
x = np.random.default_rng(0).random((64, 4), "float32")
y = x.sum(1)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dropout(0.2), keras.layers.Dense(1)])

class Die(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if len(self.model.history.epoch) * 8 + batch == die_at:
            os._exit(9)

def phase(number, loss, epochs):
    if freeze:
        model.layers[0].trainable = number == 2
    model.compile("adam", loss)
    arguments = {"epochs": epochs, "batch_size": 8, "verbose": 0, "checkpoint": mk.every(steps=1)}
    return mk.keras.fit(model, x, y, run=run, callbacks=[Die()], **arguments)

phase(1, "mse", 2)
history = phase(2, "mae", 5)
weights = b"".join(np.ascontiguousarray(one).tobytes() for one in model.get_weights())
print("ended with", history.epoch, [float(loss).hex() for loss in history.history["loss"]], weights.hex())
"""


def run_phases(folder: Path, die_at: int, kind: str) -> tuple[int, str]:
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", SCRIPT, str(folder), str(die_at), kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 9), done.stderr[-3000:]
    return done.returncode, "".join(line for line in done.stdout.splitlines() if line.startswith("ended"))


@pytest.mark.parametrize(
    ("kind", "moments"),
    [
        pytest.param("compile", (29,), id="compile, killed in the second", marks=pytest.mark.torture),
        pytest.param("freeze", (18,), id="freeze, killed at the start of the second"),
        pytest.param("freeze", (5, 18, 29), id="freeze, killed anywhere", marks=pytest.mark.torture),
        pytest.param("compile", (5, 18, 29), id="compile, killed anywhere", marks=pytest.mark.torture),
    ],
)
def test_two_phases_on_one_run_end_with_the_same_bits(kind: str, moments: tuple[int, ...], tmp_path: Path) -> None:
    _, whole = run_phases(tmp_path / "whole", -1, kind)
    assert "[0, 1, 2, 3, 4]" in whole
    for die_at in moments:  # of the 40 steps the first phase has 16
        folder = tmp_path / f"killed-{die_at}"
        assert run_phases(folder, die_at, kind)[0] == 9
        assert run_phases(folder, -1, kind) == (0, whole)
    assert run_phases(tmp_path / "whole", -1, kind) == (0, whole)  # a finished one says the same


def saved(keep: Path) -> list[tuple[int, str, dict[str, float]]]:
    return [(one.epoch, one.reason, dict(one.metrics)) for one in mk.open(keep).store.run("r").checkpoints()]


def test_the_end_of_a_training_counts_once_among_what_is_retained(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    retain = mk.retain(last=1, best=mk.best("loss", keep=2))
    history = fit(keep, model(rate=0.0), epochs=5, retain=retain, checkpoint=mk.every(epochs=1))
    best = sorted(range(1, 6), key=lambda epoch: history.history["loss"][epoch - 1])[:2]
    there = saved(keep)
    assert there[0][:2] == (5, "final")
    assert sorted(epoch for epoch, _, _ in there) == sorted({5, *best})


def test_the_last_checkpoint_has_the_metrics_of_its_own_weights(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    stop = keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True, start_from_epoch=0)
    worse = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.01 if epoch < 2 else 1.5)
    built = model(optimizer=keras.optimizers.SGD(0.01), rate=0.0)
    run = mk.open(keep).run("r", seed=1)
    history = fit(keep, built, epochs=9, callbacks=[worse, stop], retain=mk.retain(best=mk.best("loss")), run=run)
    losses = history.history["loss"]
    assert min(losses) != losses[-1]
    assert saved(keep)[0][2]["loss"] == min(losses)


class Sneaky(keras.callbacks.Callback):
    """Changes what no reading of its source can see."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.n = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        note(self.seen, epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        setattr(self, "n".strip(), batch + 1)


def note(where: list[int], value: int) -> None:
    where.append(value)


class Drawing(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)


def test_callbacks_are_watched_for_what_their_source_does_not_show(tmp_path: Path) -> None:
    with pytest.raises(NotExact, match=r"Sneaky has changed self\.n while training"):
        fit(tmp_path / "a", model(), callbacks=[Sneaky()])
    with pytest.raises(NotExact, match=r"Drawing changes self\.generator"):
        fit(tmp_path / "b", model(), callbacks=[Drawing()])
    seen: list[int] = []
    lambdas = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    with pytest.raises(NotExact, match="a function that LambdaCallback was given"):
        fit(tmp_path / "c", model(), callbacks=[lambdas])
    run = mk.open(tmp_path / "d").run("r", exact=False)
    with pytest.warns(RuntimeWarning) as told:
        fit(tmp_path / "d", model(), callbacks=[Sneaky()], exact=False, run=run)
    assert ["self.n" in str(one.message) for one in told][:1] == [True]
    assert any("self.seen" in str(one.message) for one in told)


def test_what_is_no_policy_is_refused_before_anything_begins(tmp_path: Path) -> None:
    for wrong in ({"retain": 3}, {"retain": mk.best("loss")}, {"checkpoint": 5}, {"checkpoint": mk.retain()}):
        with pytest.raises(UsageError, match=r"takes modelkeep\."):
            fit(tmp_path, model(), run="r", **wrong)
    run = mk.open(tmp_path / "keep").run("r")
    with pytest.raises(UsageError):
        run.retain = 3  # type: ignore[assignment]
    with pytest.raises(UsageError, match=r"every"):
        mk.keras.Checkpoint(run, checkpoint=3)  # type: ignore[arg-type]
    with pytest.raises(NotExact, match="leave it out"):
        fit(tmp_path, model(), run=run, callbacks=[mk.keras.Checkpoint(run)])
    with pytest.raises(UsageError, match="fit needs data"):
        mk.keras.fit(model(), run="r")


def test_a_misspelt_metric_of_best_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match=r"no such metric.*there are loss"):
        fit(tmp_path / "keep", model(), retain=mk.retain(best=mk.best("lss")))


def test_a_run_that_fit_opened_by_name_is_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELKEEP_KEEP", str(tmp_path / "keep"))
    fit(tmp_path, model(), run="r")
    assert mk.open().runs()[0].state == "finished"
    mk.open().gc(dry_run=False)
    with pytest.raises(ValueError, match="cardinality"):
        fit(tmp_path, model(), Y, X[:3], run="q")
    assert [one.state for one in mk.open().runs()] == ["interrupted", "finished"]


def test_the_users_own_error_is_the_one_that_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = mk.open(tmp_path / "keep").run("r")
    real = run.close

    def close() -> None:
        real()
        raise StorageError("the disk is full")

    monkeypatch.setattr(run, "close", close)
    with pytest.raises(Killed) as caught:
        fit(tmp_path, model(), run=run, callbacks=[Kill()])
    assert "the disk is full" in caught.value.__notes__[0]


def test_no_epochs_at_all_is_a_run_that_may_be_given_some(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    assert fit(keep, model(), epochs=0).epoch == []
    assert fit(keep, model(), epochs=1).epoch == [0]


def test_a_phase_begins_also_where_a_callback_has_ended_the_one_before(tmp_path: Path) -> None:
    stop = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=99)
    run = mk.open(tmp_path / "keep").run("r", seed=1)
    built = model()
    assert fit(tmp_path, built, run=run, epochs=9, callbacks=[stop]).epoch == [0, 1]
    assert fit(tmp_path, built, run=run, epochs=9, callbacks=[stop]).epoch == [0, 1]
    built.compile("sgd", "mae")
    assert fit(tmp_path, built, run=run, epochs=4).epoch == [0, 1, 2, 3]


def test_weights_that_another_callback_put_in_at_the_end_have_no_metrics(tmp_path: Path) -> None:
    class Zero(keras.callbacks.Callback):
        def on_train_end(self, logs: Any = None) -> None:
            self.model.set_weights([one * 0 for one in self.model.get_weights()])

    stop = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    fit(tmp_path / "keep", model(), callbacks=[stop, Zero()], initial_epoch=1)
    assert saved(tmp_path / "keep")[0][1:] == ("final", {})


class Freeze(keras.callbacks.Callback):
    """Freezes a layer in the middle of a fit, and dies an epoch later."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            for layer in self.model.layers[:1]:
                layer.trainable = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.model.layers[0].trainable and batch == 4:
            raise Killed


def test_a_layer_that_a_callback_froze_in_the_middle_is_no_quiet_resume(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path / "keep", model(), callbacks=[Freeze()], epochs=3, exact=False)
    with pytest.raises(NotExact, match=r"other weights are trainable than then.*between two calls of fit"):
        fit(tmp_path / "keep", model(), callbacks=[Freeze()], epochs=3)
