"""Keras files: what building from a configuration would run or open is named layer by layer; real models are clean."""

import base64
import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from modelkeep.budget import Budget
from modelkeep.scan import scan


def layer(kind, module="keras.layers", registered=None, **config):
    return {"module": module, "class_name": kind, "config": {"name": "x", **config}, "registered_name": registered}


def function(name, module="builtins"):
    return {"module": module, "class_name": "function", "config": name, "registered_name": "function"}


def model(*layers):
    config = {"name": "sequential", "layers": list(layers)}
    return {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}


CODE = {"class_name": "__lambda__", "config": {"code": base64.b64encode(b"\xe3\0").decode(), "defaults": None}}
HOSTILE = {
    "Lambda with bytecode (CVE-2024-3660)": layer("Lambda", function=CODE),
    "Lambda of an old file": layer("Lambda", module=None, function=["4wA=", None, None], function_type="lambda"),
    "Lambda that is registered": layer("builtins>Lambda", function="f"),
    "an activation with bytecode": layer("Dense", units=1, activation=CODE),
    "a module of its own (CVE-2025-1550)": layer("system", module="os"),
    "a module of its own, as if registered": layer("system", module="os", registered="x>system"),
    "a function of a module of its own": layer("Dense", units=1, activation=function("system", "os")),
    "get_file (CVE-2025-8747)": layer("Dense", activation=function("get_file", "keras.utils")),
    "get_file as a layer": layer("get_file", module="keras.utils", origin="x"),
    "unsafe deserialisation switched on (CVE-2025-9906)": layer("enable_unsafe_deserialization", module="keras.config"),
    "loading another model": layer("Activation", activation=function("load_model", "keras.saving")),
    "a torch module (CVE-2025-49655)": layer("TorchModuleWrapper", module="keras.layers", module_="gASV"),
    "a SavedModel elsewhere (CVE-2026-1462)": layer("TFSMLayer", filepath="../other"),
    "a function of jax": layer("JaxLayer", call_fn=function("f", "evil")),
    "a vocabulary by path (CVE-2025-12058)": layer("StringLookup", vocabulary="/etc/passwd"),
    "a vocabulary by name": layer("TextVectorization", vocabulary="vocab.txt"),
    "a vocabulary by address": layer("IntegerLookup", vocabulary="http://169.254.169.254/latest"),
    "a name that is a path (CVE-2026-12479)": layer("Dense", name="../../evil", units=1),
    "a class of main": layer("Mine", module="__main__", registered="Mine"),
    "eval": layer("Dense", activation=function("eval")),
    "within a wrapper": layer("TimeDistributed", layer=layer("Lambda", function=CODE)),
    "within another model": model(layer("Lambda", function=CODE)),
    "in the metrics": {**layer("Dense", units=1), "compile_config": {"metrics": [function("popen", "os")]}},
    "a utility of the backend": layer("func_load", module="keras.src.utils.python_utils"),
}


def kept(config, **members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1", "date_saved": "2026-01-01"}))
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def legacy(path, config):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file.create_group("model_weights")
    return path


@pytest.mark.parametrize("case", HOSTILE)
def test_a_configuration_that_runs_or_opens_something_is_unsafe(case, scanned, tmp_path):
    report = scanned(kept(model(HOSTILE[case])), "m.keras")
    assert report.verdict == "unsafe"
    assert "config.layers.0" in report.findings[0].where
    assert scan(legacy(tmp_path / "m.h5", model(HOSTILE[case]))).verdict == "unsafe"  # CVE-2025-9905
    assert scanned(json.dumps(model(HOSTILE[case])).encode(), "m.json").verdict == "unsafe"


def test_a_layer_that_is_too_large_is_over_the_limit_before_it_is_built(scanned):
    dense = {**layer("Dense", units=60_000_000), "build_config": {"input_shape": [None, 1000]}}
    assert scanned(kept(model(dense)), "m.keras", Budget(nbytes=1 << 30)).verdict == "limit"
    assert scanned(kept(model(layer("Dense", units=1 << 40))), "m.keras").verdict == "limit"
    assert scanned(kept(model(layer("Embedding", input_dim=1 << 30, output_dim=1 << 20))), "m.keras").verdict == "limit"


def test_deep_and_strange_configurations_do_not_break_the_scan(scanned):
    deep = '{"class_name":"Sequential","config":' + "[" * 50_000 + "]" * 50_000 + "}"
    assert scanned(kept(deep), "m.keras").verdict == "limit"
    for strange in ([], {"class_name": 3, "config": None}, {"class_name": "x", "config": 1, "module": 5}, None, "text"):
        scanned(kept(json.dumps(strange)), "m.keras")
    assert scanned(kept('{"class_name": "Sequential", "config": {}, "config": {}}'), "m.keras").verdict == "suspicious"
    assert scanned(kept("{"), "m.keras").verdict == "damaged"


def test_a_pickle_among_the_members_is_unsafe(scanned):
    assert scanned(kept(model(), **{"assets/x.bin": b"cos\nsystem\n(S'true'\ntR."}), "m.keras").verdict == "unsafe"


# HDF5


def test_hdf5_that_reads_other_files_is_unsafe(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"secret" * 10)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink("/etc/passwd", "/x")
        file.create_dataset("raw", (6,), "u1", external=[(str(other), 0, 6)])
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (4,))
        file.create_group("deep").create_virtual_dataset("virtual", layout)
    found = {one.where.split()[-1]: one.severity for one in scan(tmp_path / "a.h5").findings}
    assert found == {"/link": "unsafe", "/raw": "unsafe", "/deep/virtual": "unsafe"}


def test_hdf5_bombs_and_loops_are_told_without_being_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("bomb", (1 << 40,), "f4", chunks=(1 << 10,), compression="gzip")
        group = file.create_group("group")
        group["again"] = file["/group"]
        file["soft"] = h5py.SoftLink("/soft")
    report = scan(tmp_path / "a.h5")
    assert {one.severity for one in report.findings} == {"unsafe", "limit"}


def test_hdf5_behind_a_block_of_the_users_is_read(tmp_path):
    path = legacy(tmp_path / "a.h5", model(HOSTILE["Lambda of an old file"]))
    data = path.read_bytes()
    with h5py.File(tmp_path / "b.h5", "w", userblock_size=512) as file:
        file.attrs["model_config"] = json.dumps(model(HOSTILE["Lambda of an old file"]))
    block = bytearray((tmp_path / "b.h5").read_bytes())
    block[: len(b"\x93NUMPY\x01\0\x06\0{     ")] = b"\x93NUMPY\x01\0\x06\0{     "
    (tmp_path / "b.npy").write_bytes(block)
    assert scan(tmp_path / "b.npy").verdict == "unsafe"
    (tmp_path / "c.h5").write_bytes(data[: len(data) // 3])
    assert scan(tmp_path / "c.h5").verdict == "damaged"


# Clean


@pytest.fixture(scope="module")
def rich():
    """A model of many parts: branches, recurrence, attention, augmentation, vocabularies, operations, nesting."""
    words = keras.layers.TextVectorization(max_tokens=20, output_sequence_length=4)
    words.adapt(np.array(["a b c", "b c d"]))
    text = keras.Input((1,), dtype="string", name="text")
    sequence = keras.layers.Embedding(20, 8)(words(text))
    sequence = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True))(sequence)
    sequence = keras.layers.MultiHeadAttention(2, 4)(sequence, sequence)
    image = keras.Input((8, 8, 3), name="image")
    pixels = keras.layers.RandomFlip()(keras.layers.Rescaling(1 / 255)(image))
    pixels = keras.layers.Conv2D(4, 3, kernel_regularizer="l2", activation="gelu")(pixels)
    inner = keras.Sequential([keras.Input((6, 6, 4)), keras.layers.BatchNormalization(), keras.layers.Flatten()])
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(sequence), inner(pixels)])
    joined = keras.ops.relu(joined) * 2.0 + 1.0
    kinds = keras.layers.StringLookup(vocabulary=["x", "y"])(keras.Input((1,), dtype="string", name="kind"))
    output = keras.layers.Dense(2, activation="softmax", dtype="mixed_float16")(joined)
    made = keras.Model([text, image, kinds._keras_history.operation.input], [output, kinds])
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, 100)
    made.compile(keras.optimizers.AdamW(schedule), loss={}, metrics=[])
    return made


def test_models_of_keras_are_clean(rich, tmp_path):
    rich.save(tmp_path / "m.keras")
    rich.save_weights(tmp_path / "m.weights.h5")
    (tmp_path / "m.json").write_text(rich.to_json())
    report = scan(tmp_path)
    assert report.findings == ()
    assert report.files > 5


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_models_in_the_old_format_are_clean(tmp_path):
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(1)])
    made.compile("adam", "mse", metrics=["mae"])
    made.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)
    made.save(tmp_path / "m.h5")
    made.save(tmp_path / "m.keras")
    assert scan(tmp_path).findings == ()


def test_a_layer_that_its_author_registered_is_suspicious_for_its_code_is_elsewhere(tmp_path):
    @keras.saving.register_keras_serializable("mine")
    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    keras.Sequential([keras.Input((2,)), Twice()]).save(tmp_path / "m.keras")
    (found,) = scan(tmp_path / "m.keras").findings
    assert found.severity == "suspicious"
    assert "custom_objects" in found.way_out


@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetV2B0"])
def test_applications_are_clean(name, tmp_path):
    getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3)).save(tmp_path / "m.keras")
    assert scan(tmp_path / "m.keras").findings == ()
