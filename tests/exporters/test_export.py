"""A model that is exported is, for the format's own library, the model that was published; or nothing is written."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
import torch

import modelkeep as mk
from modelkeep.errors import AlreadyExists, NotExact, NotFound, StorageError, UnsupportedState, UsageError
from modelkeep.exporters import huggingface
from modelkeep.exporters import npz as npz_exporter
from modelkeep.frameworks import keras as door
from modelkeep.importers import open_weights
from modelkeep.keep import Keep
from modelkeep.state import differences

HERE = Path(__file__).parent
ALL = ("keras", "weights-h5", "safetensors", "huggingface", "torch", "npz")


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    return mk.open(tmp_path / "keep")


def digits() -> keras.Model:
    layers = [keras.layers.Dense(16, "relu", name="hidden"), keras.layers.Dense(10, name="digit")]
    model = keras.Sequential([keras.Input((8,), name="image"), *layers])
    model.compile("adam", "mse")
    return model


def published(keep: Keep, **options) -> keras.Model:
    model = digits()
    model.fit(np.ones((8, 8)), np.zeros((8, 10)), verbose=0)
    keep.publish("digits", model, example=np.ones((2, 8), "f4"), **options)
    return model


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "keep")


@pytest.mark.parametrize(
    "backend", ["tensorflow", *(pytest.param(name, marks=pytest.mark.torture) for name in ("jax", "torch"))]
)
def test_keras_alone_loads_every_kind_of_model_that_was_exported(tmp_path: Path, backend: str) -> None:
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    for act in ("export", "read"):
        line = [sys.executable, HERE / "export_models.py", act, tmp_path]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=550, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found = {line["case"]: line["wrong"] for line in map(json.loads, _objects(done.stdout))}
        if "words" in found and act == "export":  # a word with a line feed, in whose files Keras has one entry a line
            assert found.pop("words").startswith("NotExact: model:words@1: what was written cannot be read back")
        assert not {case: wrong for case, wrong in found.items() if wrong}
        assert len(found) >= 26


def _objects(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("{")]


def test_each_format_is_read_by_its_own_library(keep: Keep, tmp_path: Path) -> None:
    model = published(keep, optimizer=True)
    kernel = model.get_layer("hidden").kernel.numpy()
    paths = {to: keep.export("digits@1", to, tmp_path / f"out.{to}") for to in ALL if to not in ("keras", "weights-h5")}
    assert np.array_equal(safetensors.numpy.load_file(paths["safetensors"])["hidden/kernel"], kernel)
    assert np.array_equal(torch.load(paths["torch"], weights_only=True)["hidden/kernel"].numpy(), kernel)
    with np.load(paths["npz"], allow_pickle=False) as found:
        assert np.array_equal(found["hidden/kernel"], kernel)
    folder = paths["huggingface"]
    assert left(folder) == ["README.md", "config.json", "model.safetensors", "signature.json"]
    assert (folder / "README.md").read_text().startswith("---\nlibrary_name")
    with safetensors.safe_open(folder / "model.safetensors", "np") as file:
        assert file.metadata()["modelkeep"] == "model:digits@1"
        assert json.loads(file.metadata()["signature"])["inputs"]["name"] == "image"
    loaded = keras.models.load_model(keep.export("digits", "keras", tmp_path / "out.keras"))
    assert not differences(door.state_of(model)["optimizer"], door.state_of(loaded)["optimizer"])
    fresh, path = digits(), keep.export("digits", "weights-h5", tmp_path / "out.weights.h5")
    with pytest.warns(UserWarning, match="the saved optimizer has 0 variables"):
        fresh.load_weights(path)
    assert np.array_equal(fresh.get_layer("hidden").kernel.numpy(), kernel)
    assert left(tmp_path) == sorted(["out.keras", "out.weights.h5", *(path.name for path in paths.values())])


@pytest.mark.parametrize("to", ALL)
def test_what_was_exported_is_a_source_for_transfer(keep: Keep, tmp_path: Path, to: str) -> None:
    model = published(keep)
    path = keep.export("digits", to, tmp_path / {"weights-h5": "x.weights.h5", "keras": "x.keras"}.get(to, "x"))
    other = digits()
    mk.transfer(other, path)
    assert np.array_equal(other.get_layer("hidden").kernel, model.get_layer("hidden").kernel)


def test_a_layer_that_carries_its_state_goes_out_without_it_and_is_transferred(keep: Keep, tmp_path: Path) -> None:
    def made() -> keras.Model:
        inputs = keras.Input(batch_shape=(2, 4, 3))
        return keras.Model(inputs, keras.layers.LSTM(5, stateful=True, name="lstm")(inputs))

    def weights(one: keras.Model) -> list[bytes]:
        return [np.asarray(variable).tobytes() for variable in one.trainable_variables]

    model, x = made(), np.ones((2, 4, 3), "float32")
    model(x)
    keep.publish("rows", model, example=x)
    assert weights(keep.load_model("rows", check=True)) == weights(model)  # it answers from the state of then
    path = keep.export("rows", "keras", tmp_path / "rows.keras")
    other = made()
    assert len(mk.transfer(other, path).loaded) == 3
    assert weights(other) == weights(model)


def test_words_go_out_with_their_vocabulary(keep: Keep, tmp_path: Path) -> None:
    words = keras.layers.TextVectorization(output_sequence_length=3)
    words.adapt(["the cat sat", "the dog"])
    model = keras.Sequential([keras.Input((1,), dtype="string"), words, keras.layers.Embedding(20, 2)])
    model(tf.constant([["a"]]))
    keep.publish("words", model, example=[["the cat"], ["a dog sat"]])
    loaded = keras.models.load_model(keep.export("words", "keras", tmp_path / "words.keras"))
    assert loaded.layers[0].get_vocabulary() == words.get_vocabulary()


def test_a_torch_module_goes_out_as_its_state_dict_and_a_pytree_by_its_keys(keep: Keep, tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).to(torch.bfloat16)
    keep.publish("net", net, example=mk.Example(np.ones((1, 3)), np.ones((1, 4))))
    found = torch.load(keep.export("net", "torch", tmp_path / "net.pt"), weights_only=True)
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in found.items())
    torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).to(torch.bfloat16).load_state_dict(found)
    with pytest.raises(UsageError, match="is a torch model, and only Keras models"):
        keep.export("net", "keras", tmp_path / "net.keras")
    with pytest.raises(UnsupportedState, match="bfloat16, which numpy cannot say"):
        keep.export("net", "npz", tmp_path / "net.npz")
    params = {"layers": [{"w": jnp.ones((2, 2))}, {"w": jnp.zeros(2)}]}
    keep.publish("tree", params, example=mk.Example(np.ones(1), np.ones(1)))
    with np.load(keep.export("tree", "npz", tmp_path / "tree.npz")) as arrays:
        assert sorted(arrays.files) == ["layers/0/w", "layers/1/w"]
    assert left(tmp_path) == ["net.pt", "tree.npz"]


def test_float8_and_scalars_are_held_and_what_a_format_lacks_is_said(keep: Keep, tmp_path: Path) -> None:
    params = {"eight": np.arange(6).astype(ml_dtypes.float8_e4m3fn), "scalar": np.float32(2), "none": np.zeros((0, 3))}
    params["turned"] = np.arange(6.0).reshape(2, 3).T
    keep.publish("p", params, example=mk.Example(np.ones(1), np.ones(1)))
    found = open_weights(keep.export("p", "safetensors", tmp_path / "p.safetensors")).tensors
    assert not differences(params, {name: tensor.read() for name, tensor in found.items()})
    keep.publish("p", {"four": np.zeros(2, ml_dtypes.int4)}, example=mk.Example(np.ones(1), np.ones(1)))
    with pytest.raises(UnsupportedState, match="four is int4"):
        keep.export("p", "safetensors", tmp_path / "q.safetensors")
    assert left(tmp_path) == ["p.safetensors"]


def test_large_models_go_into_parts_with_an_index(keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = published(keep)
    monkeypatch.setattr(huggingface, "PART_BYTES", 600)
    folder = keep.export("digits", "huggingface", tmp_path / "hub")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)}
    assert (
        open_weights(folder).tensors["digit/kernel"].read().tobytes()
        == model.get_layer("digit").kernel.numpy().tobytes()
    )


def test_nothing_is_overwritten_unless_it_is_asked_for(keep: Keep, tmp_path: Path) -> None:
    published(keep)
    for to in ("npz", "huggingface"):
        path = tmp_path / f"out.{to}"
        keep.export("digits", to, path)
        before = sorted(one.stat().st_ino for one in [path, *path.rglob("*")])
        with pytest.raises(AlreadyExists, match="overwrite=True"):
            keep.export("digits", to, path)
        assert before == sorted(one.stat().st_ino for one in [path, *path.rglob("*")])
        keep.export("digits", to, path, overwrite=True)
        assert before != sorted(one.stat().st_ino for one in [path, *path.rglob("*")])
    assert left(tmp_path) == ["out.huggingface", "out.npz"]
    with pytest.raises(NotFound, match="make it first"):
        keep.export("digits", "npz", tmp_path / "no" / "out.npz")
    with pytest.raises(UsageError, match=r"no format 'kers' .* did you mean keras"):
        keep.export("digits", "kers", tmp_path / "x")


def test_what_was_written_wrong_never_has_its_name(keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(keep)
    real = npz_exporter.write

    def flipped(source, path):
        real(source, path)
        data = bytearray(path.read_bytes())
        data[data.index(b"hidden/kernel.npy") + 300] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(npz_exporter, "write", flipped)
    with pytest.raises(NotExact, match="hidden/kernel"):
        keep.export("digits", "npz", tmp_path / "out.npz")

    def full(source, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(npz_exporter, "write", full)
    with pytest.raises(StorageError, match="No space left"):
        keep.export("digits", "npz", tmp_path / "out.npz")
    assert left(tmp_path) == []


def test_a_killed_export_leaves_no_file_under_the_name(keep: Keep, tmp_path: Path) -> None:
    keep.publish("wide", {"w": np.ones((64, 1 << 18), "f4")}, example=mk.Example(np.ones(1), np.ones(1)))
    line = [sys.executable, "-m", "modelkeep", "export", "wide", "--to", "npz", "--keep", keep.url]
    for pause in (0.05, 0.2):
        child = subprocess.Popen(line, cwd=tmp_path)
        deadline = time.monotonic() + 60
        while child.poll() is None and not list(tmp_path.glob(".*.npz")) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(pause)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if (tmp_path / "wide.npz").exists():  # it was done by then: whole
            with np.load(tmp_path / "wide.npz") as found:
                assert found["w"].sum() == 64 << 18
            (tmp_path / "wide.npz").unlink()
