import json
import zipfile

import keras
import numpy as np
import pytest

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, UnknownFormat
from modelkeep.importers import open_weights
from modelkeep.importers.source import read_bytes


def bits(array):
    return np.asarray(array).tobytes()


@pytest.fixture(scope="module")
def model():
    words = keras.Input((1,), dtype="string")
    found = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(words)
    made = keras.Model(words, keras.layers.Dense(3, name="head")(found))
    made.compile("adam", "mse")
    made.optimizer.build(made.trainable_variables)
    return made


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "m.keras")
    return tmp_path / "m.keras"


def repacked(path, method=zipfile.ZIP_DEFLATED, edit=lambda name, data: data):
    """The same members, written again."""
    with zipfile.ZipFile(path) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w", method) as new:
        for name, data in members.items():
            new.writestr(name, edit(name, data))
    return path


def check(weights, model):
    own = dict(weights.model())
    assert sorted(bits(tensor.read()) for tensor in own.values()) == sorted(bits(a) for a in model.get_weights())
    assert bits(own["layers/dense/vars/0"].read()) == bits(model.get_layer("head").kernel)
    assert len(weights.tensors) - len(own) == len(model.optimizer.variables)


def test_the_bits_and_the_texts_are_those_that_keras_saved(saved, model):
    weights = open_weights(saved)
    assert weights.format == "keras"
    check(weights, model)
    with zipfile.ZipFile(saved) as file:
        assert weights.metadata["config.json"] == file.read("config.json").decode()
        assert json.loads(weights.metadata["metadata.json"])["keras_version"] == keras.__version__
        assets = {f"assets/{name}": read_bytes(source, 0, source.size) for name, source in weights.assets.items()}
        assert assets == {name: file.read(name) for name in file.namelist() if name.startswith("assets/")}


def test_a_compressed_copy_is_unpacked_in_memory(saved, model, tmp_path):
    before = sorted(tmp_path.iterdir())
    check(open_weights(repacked(saved)), model)
    assert sorted(tmp_path.iterdir()) == before


def test_the_folder_form_is_read(model, tmp_path):
    model.save(tmp_path / "folder", zipped=False)
    check(open_weights(tmp_path / "folder"), model)


def test_a_bomb_is_compared_with_the_budget_before_it_is_unpacked(saved):
    bomb = repacked(saved, edit=lambda name, data: data + bytes(64 << 20) if name.endswith(".h5") else data)
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(LimitExceeded):
        open_weights(bomb, Budget(nbytes=32 << 20))
    text = repacked(saved, edit=lambda name, data: b" " * (8 << 20) if name == "config.json" else data)
    with pytest.raises(LimitExceeded):
        open_weights(text, Budget(text=1 << 20))


def test_a_flipped_bit_is_damage(saved):
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 1
    saved.write_bytes(data)
    with pytest.raises(Damaged, match="checksum"):
        open_weights(saved)


def test_members_that_no_such_file_has_are_refused(saved):
    with zipfile.ZipFile(saved, "a") as file:
        file.writestr("run.sh", "exit")
    with pytest.raises(UnknownFormat, match=r"run\.sh"):
        open_weights(saved)
