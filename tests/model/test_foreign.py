"""A model out of a foreign file answers as its own library does, or is refused; nothing in the file is run."""

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import modelkeep as mk
from modelkeep.budget import Budget
from modelkeep.cli.main import app
from modelkeep.errors import (
    Damaged,
    LimitExceeded,
    NotFound,
    StateMismatch,
    StorageError,
    UnknownFormat,
    Unsafe,
    UsageError,
)
from modelkeep.importers import open_weights
from modelkeep.model.foreign import load_file

X = np.random.default_rng(0).random((4, 8, 8, 1)).astype("float32")
Z = np.random.default_rng(1).random((2, 5, 4)).astype("float32")


def convolutional() -> keras.Model:
    layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dropout(0.2), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    model.fit(X, np.zeros((4, 3)), verbose=0)
    return model


def recurrent() -> keras.Model:
    inputs = keras.Input((5, 4))
    attended = keras.layers.MultiHeadAttention(2, 2)(inputs, inputs)
    return keras.Model(inputs, keras.layers.Bidirectional(keras.layers.LSTM(3))(attended))


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.hdf5"])
@pytest.mark.parametrize(("made", "x"), [(convolutional, X), (recurrent, Z)], ids=["convolutional", "recurrent"])
def test_a_file_of_keras_answers_as_keras_does(tmp_path: Path, name: str, made: Any, x: Any) -> None:
    model, path = made(), tmp_path / name
    model.save(path)
    assert np.array_equal(mk.load_model(path)(x), model(x))
    assert np.array_equal(mk.load_model(str(path))(x), model(x))


def test_it_is_compiled_with_its_optimizer_where_that_is_asked_for(tmp_path: Path) -> None:
    model = convolutional()
    model.save(tmp_path / "model.keras")
    loaded = mk.load_model(tmp_path / "model.keras", compiled=True)
    assert int(loaded.optimizer.iterations) == 1
    for mine, theirs in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        assert np.array_equal(mine, theirs)
    model.save(tmp_path / "model.h5")
    assert type(mk.load_model(tmp_path / "model.h5", compiled=True).optimizer) is keras.optimizers.Adam


def test_weights_alone_go_into_a_model_that_is_there(tmp_path: Path) -> None:
    model, path = convolutional(), tmp_path / "model.weights.h5"
    model.save_weights(path)
    other = keras.models.clone_model(model)
    assert load_file(path, into=other) is other
    assert np.array_equal(other(X), model(X))
    with pytest.raises(UsageError, match=r"holds weights and no architecture; .* pass into=model"):
        mk.load_model(path)


def test_weights_that_do_not_fit_are_refused_where_keras_is_silent(tmp_path: Path) -> None:
    deep = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(4), keras.layers.Dense(2)])
    deep.save_weights(tmp_path / "deep.weights.h5")
    shallow = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(4)])
    with pytest.raises(StateMismatch, match=r"layers/dense_2/vars/0.* found no variable of the model"):
        load_file(tmp_path / "deep.weights.h5", into=shallow)
    wide = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    with pytest.raises(StateMismatch, match="do not fit the model"):
        load_file(tmp_path / "deep.weights.h5", into=wide)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)])
    for name in ("evil.keras", "evil.h5"):
        model.save(tmp_path / name)
        with pytest.raises(Unsafe, match="Lambda"):
            mk.load_model(tmp_path / name)


def rewritten(path: Path, change: Any) -> None:
    """Change the configuration in a ``.keras`` file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_a_name_in_a_file_is_not_imported(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)
    rewritten(path, lambda config: config["config"]["layers"][1].update(module="os", class_name="system"))
    with pytest.raises(Unsafe, match=r"os\.system"):
        mk.load_model(path)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)
    rewritten(path, lambda config: config["config"]["layers"][1].update(module="antigravity.layers", class_name="Up"))
    with pytest.raises((Unsafe, NotFound), match="nothing was imported"):
        mk.load_model(path)


def test_a_configuration_that_asks_for_gigabytes_is_refused_before_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)
    rewritten(path, lambda config: config["config"]["layers"][1]["config"].update(units=60_000_000))
    with pytest.raises(LimitExceeded):
        mk.load_model(path, budget=Budget(nbytes=100 << 20))


def test_a_dataset_that_declares_gigabytes_is_refused_before_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "bomb.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", (1 << 30,), "f4", chunks=(1 << 16,), compression="gzip")
    with pytest.raises(LimitExceeded):
        load_file(path, into=convolutional(), budget=Budget(nbytes=100 << 20))


class Nested(keras.layers.Layer):
    """Layers in lists within a list."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.blocks = [[keras.layers.Dense(2), keras.layers.Dense(2)], [keras.layers.Dense(2)]]

    def build(self, shape: Any) -> None:
        for layer in [*self.blocks[0], *self.blocks[1]]:
            layer.build(shape)

    def call(self, x: Any) -> Any:
        return self.blocks[1][0](self.blocks[0][1](self.blocks[0][0](x)))


def test_layers_that_an_older_keras_left_out_of_its_file_are_not_drawn_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "nested.weights.h5"
    model = keras.Sequential([keras.Input((2,)), Nested()])
    model.save_weights(path)
    other = keras.Sequential([keras.Input((2,)), Nested()])
    mk.load_model(path, into=other)
    assert all(map(np.array_equal, other.get_weights(), model.get_weights()))
    with h5py.File(path, "a") as file:
        del file["layers/nested/blocks"]
    with pytest.raises(StateMismatch, match="weights are missing: Skipping nested container"):
        mk.load_model(path, into=other)


def vocabularies() -> keras.Model:
    text = keras.layers.TextVectorization(output_sequence_length=3)
    text.adapt(["the cat sat", "日本 語", "the dog"])
    names = keras.layers.StringLookup(num_oov_indices=2, mask_token="none")
    names.adapt(["a", "b b", "a"])
    ids = keras.layers.IntegerLookup(output_mode="multi_hot")
    ids.adapt(np.array([7, -2, 7]))
    known = keras.layers.StringLookup(vocabulary=["x"])
    line, name, number = (keras.Input((1,), dtype=kind) for kind in ("string", "string", "int64"))
    inner = keras.Model(line, text(line), name="inner")
    return keras.Model([line, name, number], [inner(line), names(name), known(name), ids(number)])


WORDS = (np.array([["the 語"], ["dog"]]), np.array([["b b"], ["x"]]), np.array([[-2], [9]]))


@pytest.mark.parametrize("zipped", [True, False])
def test_vocabularies_that_were_learned_are_those_that_keras_saved(tmp_path: Path, zipped: bool) -> None:
    model, path = vocabularies(), tmp_path / "words.keras"
    inputs = [keras.ops.convert_to_tensor(part) for part in WORDS]
    path = path if zipped else path.with_suffix("")
    model.save(path, zipped=zipped)
    wanted = model(inputs)
    loaded = mk.load_model(path)
    again = mk.load_model(path, into=keras.models.clone_model(model))
    assert [name.split("/")[-1] for name in open_weights(path).assets] == ["vocabulary.txt"] * 4
    for found in (loaded(inputs), again(inputs)):
        assert [np.array_equal(one, two) for one, two in zip(found, wanted, strict=True)] == [True] * 4
    keep = mk.open(tmp_path / "keep")
    assert CliRunner().invoke(app, ["import", str(path), "words", "--keep", str(tmp_path / "keep")]).exit_code == 0
    assert np.array_equal(keep.load_model("words")(inputs)[0], wanted[0])


def test_a_vocabulary_is_compared_with_the_budget_before_it_is_set(tmp_path: Path) -> None:
    path = tmp_path / "words.keras"
    vocabularies().save(path)
    with pytest.raises(LimitExceeded, match="vocabulary entries"):
        mk.load_model(path, budget=Budget(vocabulary=4))
    with pytest.raises(LimitExceeded, match="bytes of arrays"):  # numpy makes each entry as long as the longest
        mk.load_model(edited(path, lambda text: text + "\n" + "x" * 4000), budget=Budget(nbytes=80_000))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda text: None, StateMismatch),
        (lambda text: text.replace("the", "cat"), StateMismatch),  # the same word twice
        (lambda text: "", StateMismatch),
        (lambda text: text.encode("utf-16"), Damaged),
    ],
    ids=["missing", "repeated", "empty", "no UTF-8"],
)
def test_a_vocabulary_that_is_not_whole_is_an_error(tmp_path: Path, change: Any, error: type) -> None:
    path = tmp_path / "words.keras"
    vocabularies().save(path)
    with pytest.raises(error):
        mk.load_model(edited(path, change))


def test_a_vocabulary_of_no_layer_is_not_left_out_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "words.keras"
    vocabularies().save(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("assets/layers/other/vocabulary.txt", "a\nb")
    with pytest.raises(StateMismatch, match=r"other/vocabulary\.txt found no variable"):
        mk.load_model(path)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_an_asset_that_is_a_file_and_a_folder_is_damage(tmp_path: Path, names: Any) -> None:
    path = tmp_path / "words.keras"
    vocabularies().save(path)
    with zipfile.ZipFile(path, "a") as file:
        for name in names:
            file.writestr(f"assets/{name}", "a")
    with pytest.raises(Damaged, match="a file and a folder"):
        mk.load_model(path)


def test_without_a_place_for_temporary_files_only_vocabularies_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = convolutional()
    model.save(tmp_path / "plain.keras")
    vocabularies().save(tmp_path / "words.keras")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert np.array_equal(mk.load_model(tmp_path / "plain.keras")(X), model(X))
    with pytest.raises(StorageError, match="vocabularies"):
        mk.load_model(tmp_path / "words.keras")


def edited(path: Path, change: Any) -> Path:
    """The file again with the vocabulary that knows cats changed, or without it; Keras writes it twice."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    for name in [name for name, data in members.items() if name.endswith("vocabulary.txt") and b"cat" in data]:
        changed = change(members.pop(name).decode())
        members |= {} if changed is None else {name: changed}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    return path


def test_what_is_no_model_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(b"hello")
    with pytest.raises(UnknownFormat):
        mk.load_model(tmp_path / "model.keras")
    with pytest.raises(NotFound):
        mk.load_model(tmp_path / "none.keras")
    with pytest.raises(NotFound):
        mk.load_model("none.keras")
    with pytest.raises(UsageError, match="no examples to check"):
        mk.load_model(tmp_path / "model.keras", check=True)
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(2))
    (tmp_path / "w.npz").write_bytes(buffer.getvalue())
    with pytest.raises(UsageError, match="no architecture"):
        mk.load_model(tmp_path / "w.npz")


def test_a_file_is_imported_by_the_command(tmp_path: Path) -> None:
    model = convolutional()
    model.save(tmp_path / "old.h5")
    words = ["import", str(tmp_path / "old.h5"), "digits", "--licence", "mit", "--keep", str(tmp_path / "keep")]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.output) == (0, "model:digits@1\n")
    assert np.array_equal(mk.open(tmp_path / "keep").load_model("digits@1")(X), model(X))
    (tmp_path / "evil.keras").write_bytes(b"")
    missing = CliRunner().invoke(app, ["import", str(tmp_path / "none.h5"), "digits", "--keep", str(tmp_path / "keep")])
    assert missing.exit_code == 3
