"""A foreign graph answers as its own library has it answer, once nothing but computation was found in it."""

import json
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from typer.testing import CliRunner

import modelkeep as mk
from modelkeep.budget import Budget
from modelkeep.cli.main import app
from modelkeep.errors import Damaged, LimitExceeded, NotFound, UnknownFormat, Unsafe, UsageError
from modelkeep.runtime import tensorflow_c

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
    predictor = mk.predictor(path)
    assert np.array_equal(mk.load_model(path)(X), model(X))
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
    for wrong in (X, {"x": X}, {"x": X, "n": 4, "m": 5}, {"x": X[:, :2], "n": 4}, {"x": X, "n": 4.5}):
        with pytest.raises(UsageError):
            predictor(wrong)


def test_a_graph_that_reads_files_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Reader()
    tf.saved_model.save(made, str(tmp_path / "saved"), signatures=made.read)
    monkeypatch.setattr(tensorflow_c, "load", None)
    for door in (mk.load_model, mk.predictor):
        with pytest.raises(Unsafe, match="ReadFile"):
            door(tmp_path / "saved")


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


def converted(folder: Path) -> tuple[Path, keras.Model]:
    path, model = exported(folder)
    lite = folder / "model.tflite"
    lite.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(path)).convert())
    return lite, model


def test_a_tflite_file_answers_by_its_own_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = converted(tmp_path)
    predictor = mk.predictor(str(path), warm_up=True)
    assert predictor.runtime.startswith("litert ")
    np.testing.assert_allclose(predictor(X), model(X), rtol=1e-6)
    np.save(tmp_path / "x.npy", X)
    result = CliRunner().invoke(app, ["predict", str(path), "--input", str(tmp_path / "x.npy")])
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(json.loads(result.output)["outputs"], model(X), rtol=1e-6)


def test_an_onnx_file_with_data_outside_of_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(32))
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 2], np.ones((4, 2), "f4").tobytes(), raw=True)
    ports = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", k]) for name, k in (("x", 4), ("y", 2))
    ]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "own").mkdir()
    path = tmp_path / "own" / "model.onnx"
    onnx.save(model, str(path))
    assert np.allclose(mk.predictor(path)(X), X.sum(1, keepdims=True))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(Unsafe, match="secret"):
        mk.predictor(path)


def test_a_file_that_is_no_graph_is_refused_with_the_way_out(tmp_path: Path) -> None:
    lite, model = converted(tmp_path)
    model.save(tmp_path / "model.keras")
    with pytest.raises(UnknownFormat, match="load_model reads layers"):
        mk.predictor(tmp_path / "model.keras")
    with pytest.raises(NotFound):
        mk.predictor(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="is litert, which onnxruntime does not read, but litert"):
        mk.predictor(lite, runtime="onnxruntime")
    lite.write_bytes(lite.read_bytes()[:100])
    with pytest.raises((Damaged, Unsafe)):
        mk.predictor(lite)
