"""A version answers by the lightest runtime that was proven on it, and no training framework is imported for it."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import modelkeep as mk
from modelkeep.errors import NotFound, UsageError
from modelkeep.keep import Keep
from modelkeep.runtime.table import Runtime

X = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
RUNTIMES = ("litert", "onnxruntime", "openvino", "tensorflow-c", "keras")


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Keep:
    folder = tmp_path_factory.mktemp("predictor")
    keep = mk.open(folder / "keep")
    model = keras.Sequential([keras.Input((8,), name="image"), keras.layers.Dense(4, "softmax", name="digit")])
    keep.publish("digits", model, example=X[:3])
    for to in ("litert", "onnx", "savedmodel"):
        keep.export("digits@1", to, folder / to)
    return keep


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_each_runtime_gives_the_answers_of_the_model(keep: Keep, runtime: str) -> None:
    predict = keep.predictor("digits@1", runtime=runtime, threads=1, warm_up=True)
    assert predict.runtime.startswith(f"{runtime} ")
    wanted = np.asarray(keep.load_model("digits@1")(X))
    assert np.allclose(predict(X), wanted, atol=1e-6)
    assert np.allclose(predict(X[0].tolist()), wanted[:1], atol=1e-6)  # another batch, a list, and one example alone


def test_the_lightest_is_taken_that_is_installed(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep.predictor("digits@1").runtime.startswith("litert ")
    missing = {"litert"}
    version = Runtime.version
    monkeypatch.setattr(Runtime, "version", lambda one: None if one.name in missing else version(one))
    assert keep.predictor("digits@1").runtime.startswith("onnxruntime ")
    missing |= {"onnxruntime", "openvino"}
    assert keep.predictor("digits@1").runtime.startswith("tensorflow-c ")
    missing |= {"tensorflow-c"}
    assert keep.predictor("digits@1").runtime.startswith("keras ")
    with pytest.raises(UsageError, match=r"litert is not installed; pip install 'modelkeep\[litert\]'"):
        keep.predictor("digits@1", runtime="litert")


@pytest.mark.parametrize("runtime", ["litert", "onnxruntime", "tensorflow-c"])
def test_no_training_framework_is_imported(keep: Keep, runtime: str) -> None:
    code = (
        "import sys, modelkeep as mk, numpy as np\n"
        f"predict = mk.predictor('digits@1', keep={keep.url!r}, runtime={runtime!r})\n"
        "assert predict(np.ones((2, 8))).shape == (2, 4)\n"
        "assert not {'tensorflow', 'keras', 'torch', 'jax'} & {*sys.modules}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_does_not_fit_is_told(keep: Keep) -> None:
    predict = keep.predictor("digits@1")
    for value, told in (
        (np.ones((2, 7)), r"image is of shape \[2, 7\], and image: float32 \[\?, 8\] is wanted"),
        (np.full((2, 8), np.nan), "image holds 16 NaN of 16 values"),
        ([["a"] * 8], "image: float32"),
    ):
        with pytest.raises(UsageError, match=told):
            predict(value)
    assert np.isnan(predict(np.full((2, 8), np.nan), allow_nan=True)).all()
    with pytest.raises(UsageError, match=r"there is no runtime 'tensorrt'; there is litert, onnxruntime"):
        keep.predictor("digits@1", runtime="tensorrt")
    with pytest.raises(NotFound, match=r"has no export that torch was proven on; modelkeep export \S+ --to pt2"):
        keep.predictor("digits@1", runtime="torch")


def test_many_calls_do_not_grow(keep: Keep) -> None:
    predict = keep.predictor("digits@1", runtime="tensorflow-c")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for _ in range(200):
        predict(X)
    before = resident()
    for _ in range(2000):
        predict(X)
    assert resident() - before < 8 << 20


def test_the_command_predicts_from_a_file(keep: Keep, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-m", "modelkeep", "--keep", keep.url, "predict", "digits@1", "--input"]

    def run(*words: str, **options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *words], capture_output=True, text=True, check=False, **options)

    done = run(str(tmp_path / "x.npy"))
    assert done.returncode == 0, done.stderr
    wanted = np.asarray(keep.load_model("digits@1")(X))
    assert np.allclose(json.loads(done.stdout)["outputs"], wanted, atol=1e-6)
    piped = run("-", input=json.dumps({"instances": X.tolist()}))
    assert np.allclose(json.loads(piped.stdout)["outputs"], wanted, atol=1e-6)
    assert run(str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")).returncode == 0
    assert np.allclose(np.load(tmp_path / "y.npy"), wanted, atol=1e-6)
    assert run(str(tmp_path / "gone.npy")).returncode == NotFound.exit_code
    assert run(str(tmp_path / "x.npy"), "--runtime", "none").returncode == UsageError.exit_code
