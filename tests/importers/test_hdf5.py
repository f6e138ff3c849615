import json

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, UnknownFormat, Unsafe
from modelkeep.importers import open_weights

KINDS = ["i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", ">f4", ">i8", "?"]


def bits(array):
    array = np.asarray(array)
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def network(dtype="float32"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3, name="conv", dtype=dtype)(inputs)
    x = keras.layers.BatchNormalization(name="norm", dtype=dtype)(x)
    inner = keras.Sequential([keras.Input((144,)), keras.layers.Dense(6, name="hidden", dtype=dtype)], name="inner")
    x = inner(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(2, name="head", dtype=dtype)(x))


def trained():
    model = network()
    model.compile("adam", keras.losses.MeanSquaredError())
    model.fit(np.ones((4, 8, 8, 3)), np.ones((4, 2)), verbose=0)
    return model


def datasets(file):
    found = {}
    file.visititems(lambda name, thing: found.update({name: thing[()]}) if isinstance(thing, h5py.Dataset) else None)
    return found


def test_weights_of_keras_3_have_the_bits_that_keras_saved(tmp_path):
    model = trained()
    model.save_weights(tmp_path / "m.weights.h5")
    weights = open_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5") as file:
        wanted = datasets(file)
    assert list(weights.tensors) == list(wanted)
    for name, array in wanted.items():
        assert bits(weights.tensors[name].read()) == bits(array), name
    assert weights.metadata["optimizer"] == "optimizer/"
    saved = sorted(bits(variable) for variable in model.get_weights())
    assert sorted(bits(tensor.read()) for _, tensor in weights.model()) == saved


def test_a_whole_legacy_file_has_layers_configuration_and_optimizer(tmp_path):
    model = trained()
    model.save(tmp_path / "m.h5")
    weights = open_weights(tmp_path / "m.h5")
    assert weights.format == "keras-h5"
    assert [bits(tensor.read()) for _, tensor in weights.model()] == [bits(array) for array in model.get_weights()]
    assert "conv/kernel" in weights.tensors
    assert json.loads(weights.metadata["model_config"])["class_name"] == "Functional"
    assert "training_config" in weights.metadata
    assert [name for name in weights.tensors if name.startswith("optimizer/")]


def test_the_weights_of_legacy_files_come_layer_by_layer_in_their_order(tmp_path):
    """As Keras 1 and 2 wrote them: attributes of bytes, and ``:0`` behind the names."""
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = [b"zebra", b"ape", b"flat"]
        for layer, names in {
            "zebra": [b"zebra/kernel:0", b"zebra/bias:0"],
            "ape": [b"ape_W", b"ape_b"],
            "flat": [],
        }.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = names
            for number, name in enumerate(names):
                group.create_dataset(name.decode(), data=np.full((2, 2), number, np.float32))
    weights = open_weights(tmp_path / "old.h5")
    assert list(weights.tensors) == ["zebra/kernel", "zebra/bias", "ape/ape_W", "ape/ape_b"]
    assert weights.tensors["ape/ape_b"].read().tolist() == [[1, 1], [1, 1]]
    assert weights.metadata["layers"][0] == ["zebra", "zebra/kernel"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_dtypes_of_keras_are_kept(tmp_path, dtype):
    model = network(dtype)
    model.save_weights(tmp_path / "m.weights.h5")
    weights = open_weights(tmp_path / "m.weights.h5")
    saved = sorted(bits(array) for array in model.get_weights())
    assert sorted(bits(tensor.read()) for tensor in weights.tensors.values()) == saved
    assert dtype in {tensor.dtype for tensor in weights.tensors.values()}


def test_shards_are_put_together(tmp_path):
    model = trained()
    model.save_weights(tmp_path / "m.weights.json", max_shard_size=4e-6)
    assert len(list(tmp_path.glob("*.h5"))) > 1
    weights = open_weights(tmp_path / "m.weights.json")
    saved = sorted(bits(variable) for variable in model.get_weights())
    assert sorted(bits(tensor.read()) for _, tensor in weights.model()) == saved
    assert open_weights(tmp_path).tensors.keys() == weights.tensors.keys()


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (2, 4)}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}, {"shuffle": True}],
)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_kind_and_layout_is_what_h5py_reads(tmp_path, options, libver):
    rng = np.random.default_rng(2)
    with h5py.File(tmp_path / "x.h5", "w", libver=libver) as file:
        for number, kind in enumerate(KINDS):
            if kind != "<c8":
                file.create_dataset(f"g{number}/{number}", data=rng.integers(0, 2, (5, 6)).astype(kind), **options)
        for number in range(40):
            file[f"many/{number}"] = np.arange(number)
        file["scalar"], file["empty"] = 3.5, np.zeros((0, 3))
    weights = open_weights(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        wanted = datasets(file)
    assert weights.tensors.keys() == wanted.keys()
    for name, array in wanted.items():
        got = weights.tensors[name].read()
        assert got.shape == weights.tensors[name].shape == np.shape(array)
        assert bits(got) == bits(array), name


def test_values_with_a_name_of_their_own_are_read_by_it(tmp_path):
    array = np.arange(6).astype(ml_dtypes.bfloat16)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("w", data=array.view("V2")).attrs["dtype"] = "bfloat16"
    assert bits(open_weights(tmp_path / "x.h5").tensors["w"].read()) == bits(array)


@pytest.mark.parametrize("make", ["soft", "external", "loop"])
def test_links_are_not_followed(tmp_path, make):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["w"] = np.ones(3)
        file["a"] = {
            "soft": h5py.SoftLink("/w"), "external": h5py.ExternalLink("/etc/passwd", "/"), "loop": h5py.SoftLink("/a"),
        }[make]  # fmt: skip
    with pytest.raises(Unsafe, match="link"):
        open_weights(tmp_path / "x.h5")


def test_groups_that_hold_themselves_are_damage(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/b/c"] = np.ones(3)
        file["a/b/again"] = file["a"]
    with pytest.raises(Damaged, match="within itself"):
        open_weights(tmp_path / "x.h5")


def test_budgets_are_compared_with_what_is_declared(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("w", (1 << 20,), "f4", data=np.zeros(1 << 20, "f4"), compression="gzip")
        file.create_group("/".join("abcdefgh"))
    for budget in (Budget(nbytes=1 << 20), Budget(depth=3), Budget(entries=2)):
        with pytest.raises(LimitExceeded):
            open_weights(tmp_path / "x.h5", budget)


def test_texts_and_objects_are_no_weights(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["words"] = ["a", "b"]
    with pytest.raises(UnknownFormat):
        open_weights(tmp_path / "x.h5")
