"""Weights in any format become a version, go out as they came in, and are the start of a model."""

from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import safetensors.numpy
import tensorflow as tf
import torch
from typer.testing import CliRunner

import modelkeep as mk
from modelkeep.cli.main import app
from modelkeep.errors import UsageError

RENAME = {"head.weight": "head.kernel", "head/weight": "head/kernel"}
W, B = np.arange(12, dtype="f4").reshape(4, 3), np.ones(3, "f4")


def safetensors_folder(folder: Path) -> Path:
    (folder / "bert").mkdir()
    safetensors.numpy.save_file({"head.weight": W, "head.bias": B}, folder / "bert" / "model.safetensors")
    (folder / "bert" / "config.json").write_text('{"architectures": ["Bert"]}')
    return folder / "bert"


def npz(folder: Path) -> Path:
    np.savez(folder / "w.npz", **{"head/weight": W, "head/bias": B})
    return folder / "w.npz"


def state_dict(folder: Path) -> Path:
    torch.save({"head.weight": torch.tensor(W), "head.bias": torch.tensor(B)}, folder / "w.pt")
    return folder / "w.pt"


def keras_weights(folder: Path) -> Path:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    model.set_weights([W, B])
    model.save_weights(folder / "w.weights.h5")
    return folder / "w.weights.h5"


def initializers(folder: Path) -> Path:
    arrays = {"head.weight": W, "head.bias": B}
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    onnx.save(onnx.ModelProto(ir_version=9, graph=onnx.GraphProto(initializer=tensors)), folder / "w.onnx")
    return folder / "w.onnx"


class Net(tf.Module):
    def __init__(self) -> None:
        self.weight, self.bias = tf.Variable(W), tf.Variable(B)


def checkpoint(folder: Path) -> Path:
    tf.train.Checkpoint(head=Net()).write(str(folder / "ckpt"))
    return folder / "ckpt.index"


def saved_model(folder: Path) -> Path:
    tf.saved_model.save(Net(), str(folder / "saved"))
    return folder / "saved"


@pytest.mark.parametrize(
    "made", [safetensors_folder, npz, state_dict, keras_weights, initializers, checkpoint, saved_model]
)
def test_weights_of_any_format_become_a_version_and_go_out_again(tmp_path: Path, made) -> None:
    path, place = made(tmp_path), str(tmp_path / "keep")
    done = CliRunner().invoke(app, ["import", str(path), "start", "--keep", place, "--licence", "mit"])
    assert (done.exit_code, done.stdout.strip()) == (0, "model:start@1")
    shown = CliRunner().invoke(app, ["show", "start", "--keep", place])
    assert shown.exit_code == 0
    assert path.name in shown.stdout
    keep = mk.open(place)
    out = keep.export("start", "npz", tmp_path / "out.npz")
    with np.load(out) as arrays:
        assert sorted(arrays[name].tobytes() for name in arrays) == sorted([W.tobytes(), B.tobytes()])
    with pytest.raises(UsageError, match=r"mk\.transfer"):
        keep.load_model("start")
    with pytest.raises(UsageError, match="only Keras models have this format"):
        keep.export("start", "keras", tmp_path / "out.keras")


@pytest.mark.parametrize("made", [safetensors_folder, npz, keras_weights])
def test_they_are_the_start_of_a_model(tmp_path: Path, made) -> None:
    keep = mk.open(tmp_path / "keep")
    keep.publish("start", made(tmp_path))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    mk.transfer(model, "start", keep=keep, rename={} if made is keras_weights else RENAME, adapt=False)
    assert np.array_equal(model.layers[0].kernel, W)
    assert keep.publish("digits", model).parents[0].model == "start"


def test_a_model_in_a_file_is_published_with_the_file_as_its_origin(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    model.save(tmp_path / "m.keras")
    keep = mk.open(tmp_path / "keep")
    version = keep.publish("digits", tmp_path / "m.keras", example=np.ones((2, 4), "f4"))
    assert np.array_equal(keep.load_model("digits", check=True).layers[0].kernel, model.layers[0].kernel)
    assert "m.keras" in str(keep.snapshot(version.ref).meta)


def test_names_that_are_the_beginning_of_others_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{"a": W, "a/b": B})
    keep = mk.open(tmp_path / "keep")
    with pytest.raises(UsageError, match="a tensor too"):
        keep.publish("start", tmp_path / "w.npz")
    with pytest.raises(UsageError, match="cannot be asked"):
        keep.publish("start", npz(tmp_path), example=np.ones((2, 4)))
    assert not keep.models()


def test_a_file_that_is_not_there_makes_no_keep(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["import", str(tmp_path / "typo.npz"), "start", "--keep", str(tmp_path / "keep")])
    assert done.exit_code == 3
    assert list(tmp_path.iterdir()) == []
