"""A SavedModel answers as TensorFlow's own loader has it answer, once nothing but computation was found in it."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import modelkeep as mk
from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, Unsafe, UsageError

X = np.random.default_rng(0).random((3, 4)).astype("f4")


class Twice(tf.Module):
    def __init__(self) -> None:
        self.weight = tf.Variable(np.ones((4, 2), "f4"))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x"), tf.TensorSpec([], tf.int32, "n")])
    def both(self, x: tf.Tensor, n: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"product": x @ self.weight, "count": n + 1}


class Empty(tf.Module):
    def __init__(self) -> None:
        self.weight = tf.Variable(np.ones((4, 2), "f4"))


class Reader(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "path")])
    def read(self, path: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(tf.io.read_file, path)


def exported(folder: Path) -> tuple[Path, keras.Model]:
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)])
    model.export(folder / "saved", verbose=False)
    return folder / "saved", model


def test_it_answers_as_the_model_that_was_exported(tmp_path: Path) -> None:
    path, model = exported(tmp_path)
    predictor = mk.load_model(path)
    assert np.array_equal(predictor(X), model(X))
    assert np.array_equal(predictor(X.tolist()), model(X))
    assert str(predictor.signature).startswith("x: float32 [?, 4] ->")


def test_several_inputs_and_outputs_go_by_their_names(tmp_path: Path) -> None:
    made = Twice()
    tf.saved_model.save(made, str(tmp_path / "saved"), signatures=made.both)
    predictor = mk.load_model(str(tmp_path / "saved"))
    answers = predictor({"x": X, "n": 4})
    assert answers.keys() == {"product", "count"}
    assert np.array_equal(answers["product"], X @ np.ones((4, 2), "f4"))
    assert answers["count"] == 5
    for wrong in (X, {"x": X}, {"x": X, "n": 4, "m": 5}, {"x": X[:, :2], "n": 4}, {"x": X.astype("i8"), "n": 4}):
        with pytest.raises(UsageError):
            predictor(wrong)


def test_a_graph_that_reads_files_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Reader()
    tf.saved_model.save(made, str(tmp_path / "saved"), signatures=made.read)
    monkeypatch.setattr(tf.compat.v1.saved_model, "load", None)
    with pytest.raises(Unsafe, match="ReadFile"):
        mk.load_model(tmp_path / "saved")


def test_what_cannot_be_meant_or_loaded_is_said(tmp_path: Path) -> None:
    made = Twice()
    tf.saved_model.save(Empty(), str(tmp_path / "none"))
    with pytest.raises(UsageError, match="no signature"):
        mk.load_model(tmp_path / "none")
    tf.saved_model.save(made, str(tmp_path / "two"), signatures={"a": made.both, "b": made.both})
    with pytest.raises(UsageError, match="the signatures a, b"):
        mk.load_model(tmp_path / "two")
    path, _ = exported(tmp_path)
    with pytest.raises(LimitExceeded):
        mk.load_model(path, budget=Budget(nbytes=1000))
    data = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").write_bytes(data[: len(data) // 2])
    with pytest.raises(Damaged):
        mk.load_model(path)
