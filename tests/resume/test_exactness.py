"""What could not be resumed bit for bit is found when training starts, each with the line that mends it."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import modelkeep as mk
from modelkeep.errors import NotExact, StateMismatch, UsageError

X, Y = np.zeros((16, 4), "float32"), np.zeros((16, 1), "float32")


def dense(units: int = 3) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def refusal(tmp_path: Path, x: Any, y: Any = None, *, model: keras.Model | None = None, **arguments: Any) -> str:
    with pytest.raises(NotExact) as caught:
        mk.keras.fit(model or dense(), x, y, run=mk.open(tmp_path / "keep").run("r"), verbose=0, **arguments)
    return str(caught.value)


class Counting(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._add(1)

    def _add(self, number: int) -> None:
        self.count += number


def test_a_callback_whose_state_would_be_lost_is_named_with_the_methods_to_add(tmp_path: Path) -> None:
    text = refusal(tmp_path, X, Y, callbacks=[Counting()])
    assert "Counting changes self.count" in text
    assert 'def get_state(self): return {"count": self.count}' in text


class Thawing(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.layers[0].trainable = True
        self.model.optimizer.learning_rate = 0.1
        self.model.stop_training = epoch == 1


def test_a_callback_that_changes_the_model_beside_its_variables_is_named(tmp_path: Path) -> None:
    text = refusal(tmp_path, X, Y, callbacks=[Thawing()])
    assert "Thawing changes self.model.layers while training" in text
    assert "optimizer" not in text
    assert "stop_training" not in text


def test_a_generator_is_refused(tmp_path: Path) -> None:
    assert "generator" in refusal(tmp_path, ((X, Y) for _ in range(3)))


def test_an_unseeded_shuffle_is_refused(tmp_path: Path) -> None:
    from tensorflow.python.eager import context

    context.context()._seed = None
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(8).batch(4)
    assert "shuffle(..., seed=0)" in refusal(tmp_path, dataset)


def test_a_shuffle_built_after_the_run_is_seeded_by_it(tmp_path: Path) -> None:
    run = mk.open(tmp_path / "keep").run("r", seed=1)
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(8).batch(4)
    assert mk.keras.fit(dense(), dataset, run=run, verbose=0).epoch == [0]


def test_a_parallel_map_that_draws_is_refused(tmp_path: Path) -> None:
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).map(
        lambda x, y: (x + tf.random.normal([4], seed=1), y), num_parallel_calls=2
    )
    assert "RandomStandardNormal" in refusal(tmp_path, dataset.batch(4))


def test_a_nondeterministic_map_is_refused(tmp_path: Path) -> None:
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).map(
        lambda x, y: (x, y), num_parallel_calls=2, deterministic=False
    )
    assert "deterministic=False" in refusal(tmp_path, dataset.batch(4))


class Impure(keras.utils.PyDataset):
    num_batches = 4

    def __getitem__(self, index: int) -> Any:
        return X[:4] + np.random.rand(), Y[:4]


def test_a_dataset_whose_batches_are_not_functions_of_their_number_is_refused(tmp_path: Path) -> None:
    assert "default_rng((seed, epoch, index))" in refusal(tmp_path, Impure())


class Stateful(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.layer = keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.layer(x + tf.random.normal(tf.shape(x)))


def test_a_step_that_draws_from_a_kernels_own_state_is_refused(tmp_path: Path) -> None:
    model = Stateful()
    model.compile("adam", "mse")
    assert "keras.random.SeedGenerator" in refusal(tmp_path, X, Y, model=model)


def test_backup_and_restore_is_refused(tmp_path: Path) -> None:
    callback = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    assert "BackupAndRestore" in refusal(tmp_path, X, Y, callbacks=[callback])


def test_exact_false_goes_on_and_says_so(tmp_path: Path) -> None:
    run = mk.open(tmp_path / "keep").run("r", exact=False)
    with pytest.warns(RuntimeWarning, match="will not resume bit for bit"):
        history = mk.keras.fit(dense(), X, Y, run=run, callbacks=[Counting()], exact=False, verbose=0)
    assert history.epoch == [0]


def test_an_unknown_argument_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"epoch.*batch_size"):
        mk.keras.fit(dense(), X, Y, run=mk.open(tmp_path / "keep").run("r"), epoch=3)


def test_a_model_that_is_not_compiled_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(UsageError, match="compile"):
        mk.keras.fit(model, X, Y, run=mk.open(tmp_path / "keep").run("r"))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_dataset_of_unknown_length_takes_no_step_beyond_its_end(tmp_path: Path) -> None:
    """Keras counts one more in each epoch: parts of the step that finds no batch have run when it fails."""
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).filter(lambda *_: True)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.warns(RuntimeWarning, match="does not tell its length"):
        mk.keras.fit(model, data, run=mk.open(tmp_path / "keep").run("r"), epochs=3, verbose=0)
    steps = 3 * -(-len(X) // 8)
    assert int(model.optimizer.iterations.numpy()) == steps
    assert int(keras.ops.convert_to_numpy(model.layers[0].seed_generator.state)[1]) == steps


def test_changed_layers_are_listed_with_both_shapes(tmp_path: Path) -> None:
    keep = mk.open(tmp_path / "keep")
    mk.keras.fit(dense(), X, Y, run=keep.run("r"), verbose=0)
    with pytest.raises(StateMismatch) as caught:
        mk.keras.fit(dense(units=5), X, Y, run=keep.run("r"), epochs=2, verbose=0)
    assert "kernel" in str(caught.value)
    assert "4, 3" in str(caught.value)
    assert "4, 5" in str(caught.value)


def test_a_callback_that_was_not_there_is_named(tmp_path: Path) -> None:
    keep = mk.open(tmp_path / "keep")
    mk.keras.fit(dense(), X, Y, run=keep.run("r"), verbose=0)
    text = refusal(tmp_path, X, Y, epochs=2, callbacks=[keras.callbacks.EarlyStopping("loss")])
    assert "EarlyStopping is passed now" in text


def test_a_finished_run_returns_its_history_and_weights_at_once(tmp_path: Path) -> None:
    keep = mk.open(tmp_path / "keep")
    first = dense()
    history = mk.keras.fit(first, X, Y + 1, run=keep.run("r"), epochs=2, verbose=0)
    again = dense()
    told = mk.keras.fit(again, X, Y + 1, run=keep.run("r"), epochs=2, verbose=0)
    assert told.history == history.history
    assert told.epoch == [0, 1]
    for one, other in zip(first.get_weights(), again.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_finished_run_gives_callbacks_what_they_ended_with(tmp_path: Path) -> None:
    class Counter(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seen = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seen += 1

        def get_state(self) -> Any:
            return {"seen": self.seen}

        def set_state(self, state: Any) -> None:
            self.seen, self.of = state["seen"], self.model

    def train(epochs: int) -> tuple[Any, ...]:
        model, own = dense(), keras.callbacks.History()
        stopper, counter = keras.callbacks.EarlyStopping("loss", patience=9), Counter()
        run = mk.open(tmp_path / "keep").run("r")
        told = mk.keras.fit(model, X, Y + 1, run=run, epochs=epochs, verbose=0, callbacks=[own, stopper, counter])
        assert told is own
        assert getattr(counter, "of", model) is model
        return told.history, stopper.best, stopper.wait, counter.seen

    assert train(3) == train(3)
    assert train(3)[3] > 0
    longer = train(5)
    assert len(longer[0]["loss"]) == 5
    assert train(5) == longer


def test_more_epochs_go_on_as_if_they_had_been_asked_for_at_once(tmp_path: Path) -> None:
    keep = mk.open(tmp_path / "keep")

    def train(name: str, epochs: int) -> keras.Model:
        run = keep.run(name, seed=1)
        model = dense()
        stop = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)
        mk.keras.fit(model, X + 1, Y + 1, run=run, epochs=epochs, verbose=0, callbacks=[stop])
        return model

    whole = train("whole", 4)
    train("parts", 2)
    parts = train("parts", 4)
    assert parts.history.history == whole.history.history
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_second_fit_of_the_same_open_run_goes_on(tmp_path: Path) -> None:
    run = mk.open(tmp_path / "keep").run("r", seed=1)
    model = dense()
    mk.keras.fit(model, X, Y, run=run, epochs=1, verbose=0)
    assert mk.keras.fit(model, X, Y, run=run, epochs=3, verbose=0).epoch == [0, 1, 2]


def test_a_name_is_a_run_in_the_default_keep_and_it_says_where_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELKEEP_KEEP", str(tmp_path / "keep"))
    mk.keras.fit(dense(), X, Y, run="digits", epochs=1, verbose=0)
    assert capsys.readouterr().out == ""
    assert mk.keras.fit(dense(), X, Y, run="digits", epochs=2, verbose=2).epoch == [0, 1]
    assert "modelkeep: run digits goes on at epoch 2, batch 1 (step 1)" in capsys.readouterr().out
    mk.keras.fit(dense(), X, Y, run="digits", epochs=2, verbose=2)
    assert "modelkeep: run digits is finished" in capsys.readouterr().out
    mk.open(None).run("digits").close()


def test_a_generator_trains_with_exact_false_and_resumes_at_epochs(tmp_path: Path) -> None:
    keep = mk.open(tmp_path / "keep")

    def endless() -> Any:
        while True:
            yield X, Y

    for epochs in (1, 2):
        run = keep.run("r", exact=False)
        with pytest.warns(RuntimeWarning, match="open only at their beginning"):
            history = mk.keras.fit(
                dense(), endless(), run=run, exact=False, epochs=epochs, steps_per_epoch=3, shuffle=False, verbose=0
            )
    assert history.epoch == [0, 1]
