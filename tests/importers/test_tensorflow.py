from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, NotFound
from modelkeep.importers import open_weights
from modelkeep.importers.crc32c import crc32c, masked

DTYPES = [
    "float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64", "bool", "complex64", "complex128", "float8_e5m2", "float8_e4m3fn", "int4", "uint4",
]  # fmt: skip


def values(dtype):
    rng = np.random.default_rng(3)
    kind = tf.as_dtype(dtype).as_numpy_dtype
    return (
        rng.integers(0, 2, (2, 3, 4)).astype(kind)
        if "int" in dtype or dtype == "bool"
        else rng.random((2, 3, 4)).astype(kind)
    )


def bits(array):
    return np.ascontiguousarray(array).tobytes()


def check_equal(path, weights, *, strip=True):
    reader = tf.train.load_checkpoint(str(path))
    wanted = {key for key, kind in reader.get_variable_to_dtype_map().items() if kind != tf.string}
    assert len(weights.tensors) == len(wanted)
    seen = sorted(bits(tensor.read()) for tensor in weights.tensors.values())
    assert seen == sorted(bits(reader.get_tensor(key)) for key in wanted)
    for key in wanted:
        name = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
        if ".OPTIMIZER_SLOT" not in name:
            assert bits(weights.tensors[name].read()) == bits(reader.get_tensor(key)), key
            assert weights.tensors[name].shape == tuple(reader.get_variable_to_shape_map()[key])


@pytest.fixture
def checkpoint(tmp_path):
    """A module with variables of every dtype, saved by objects."""
    module = tf.Module()
    module.kinds = {name: tf.Variable(values(name), name=f"of_{name}") for name in DTYPES}
    module.scalar, module.empty = tf.Variable(2.5), tf.Variable(np.zeros((0, 3), np.float32))
    module.big = tf.Variable(np.random.default_rng(0).random((300, 401)).astype(np.float32))
    return tf.train.Checkpoint(root=module).save(str(tmp_path / "ckpt"))


def test_a_checkpoint_of_objects_is_what_tensorflow_loads(checkpoint):
    for path in (checkpoint, f"{checkpoint}.index"):
        weights = open_weights(path)
        assert weights.format == "tensorflow-checkpoint"
        check_equal(checkpoint, weights)
    assert weights.tensors["kinds/bfloat16"].dtype == "bfloat16"
    assert weights.metadata["full_names"]["kinds/float16"] == "of_float16"


def test_a_folder_with_one_checkpoint_is_read(checkpoint, tmp_path):
    check_equal(checkpoint, open_weights(tmp_path))


def test_a_checkpoint_of_names_is_what_tensorflow_loads(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("dense/kernel", initializer=tf.random.normal((5, 6)))
        tf.compat.v1.get_variable("dense/bias", initializer=tf.zeros(6))
        session.run(tf.compat.v1.global_variables_initializer())
        path = tf.compat.v1.train.Saver().save(session, str(tmp_path / "model"), global_step=7)
    weights = open_weights(path)
    check_equal(path, weights)
    assert list(weights.tensors) == ["dense/bias", "dense/kernel"]


def test_slots_of_the_optimizer_are_kept_apart(tmp_path):
    variable = tf.Variable([1.0, 2.0])
    optimizer = tf.compat.v1.train.MomentumOptimizer(0.1, 0.9)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(variable**2)
    optimizer.apply_gradients([(tape.gradient(loss, variable), variable)])
    path = tf.train.Checkpoint(w=variable, optimizer=optimizer).save(str(tmp_path / "x"))
    weights = open_weights(path)
    check_equal(path, weights)
    assert "optimizer/w/momentum" in weights.tensors
    assert "w" in dict(weights.model())
    assert "optimizer/w/momentum" not in dict(weights.model())


def test_the_variables_of_a_saved_model_are_read_and_its_graph_is_not(tmp_path):
    module = tf.Module()
    module.w = tf.Variable(values("float32"))
    tf.saved_model.save(module, str(tmp_path / "saved"))
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"no graph at all")
    weights = open_weights(tmp_path / "saved")
    assert weights.format == "saved-model"
    assert bits(weights.tensors["w"].read()) == bits(values("float32"))


def test_a_flipped_bit_is_damage_wherever_it_is(checkpoint):
    for suffix in (".index", ".data-00000-of-00001"):
        with open(checkpoint + suffix, "r+b") as file:
            data = file.read()
            for place in range(5, len(data) - 48, len(data) // 40):
                file.seek(place)
                file.write(bytes([data[place] ^ 4]))
                file.flush()
                weights = None
                try:
                    weights = open_weights(checkpoint)
                    for tensor in weights.tensors.values():
                        tensor.read()
                except Damaged:
                    pass
                else:
                    # bytes of the object graph alone are covered by no checksum that is needed for weights
                    assert suffix != ".index", place
                file.seek(place)
                file.write(data[place : place + 1])
                file.flush()


def test_a_missing_part_and_a_small_budget_are_told(checkpoint):
    with pytest.raises(LimitExceeded):
        open_weights(checkpoint, Budget(nbytes=1000))
    Path(f"{checkpoint}.data-00000-of-00001").unlink()
    with pytest.raises(NotFound, match="data-00000-of-00001"):
        open_weights(checkpoint)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 4096, 100_003, (1 << 24) + 777])
def test_checksums_are_those_of_tensorflow(size, tmp_path):
    data = np.random.default_rng(size).bytes(size)
    with tf.io.TFRecordWriter(str(tmp_path / "x")) as writer:
        writer.write(data)
    assert masked(crc32c(data)) == int.from_bytes((tmp_path / "x").read_bytes()[-4:], "little")
