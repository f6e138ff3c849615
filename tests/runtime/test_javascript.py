"""Exports as a browser runs them: real Node, a real headless Chromium, every backend."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest

import modelkeep as mk
from modelkeep.errors import Damaged, UsageError
from modelkeep.keep import Keep
from modelkeep.runtime.javascript import packages
from modelkeep.runtime.javascript.browser import Browser
from modelkeep.runtime.table import RUNTIMES, Script, readers

SCRIPTS = {one.name: one for one in RUNTIMES if isinstance(one, Script)}
X = np.random.default_rng(0).normal(size=(4, 8, 8, 2)).astype("float32")

needs_all = pytest.mark.skipif(
    any(one.version() is None for one in SCRIPTS.values()), reason="Node, Chromium or their packages are not installed"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Keep, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("scripts")
    keep = mk.open(folder / "keep")
    keras.utils.set_random_seed(4)  # what rounding does depends on the weights
    layers = keras.layers
    inputs = keras.Input((8, 8, 2), name="image")
    seen = layers.Reshape((9, 4))(layers.MaxPool2D()(layers.Conv2D(4, 3, activation="gelu")(inputs)))
    hidden = layers.Flatten()(layers.MultiHeadAttention(2, 4)(seen, seen))
    model = keras.Model(inputs, {"kind": layers.Dense(5, "softmax")(hidden), "size": layers.Dense(1)(hidden)})
    keep.publish("small", model, example=X)
    paths = {to: keep.export("small", to, folder / f"small.{to}") for to in ("tfjs", "onnx")}
    return keep, {**paths, "litert": keep.export("small", "litert", folder / "fixed.tflite", batch=2)}


@needs_all
@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("tfjs-cpu", "node"), ("tfjs-wasm", "node"), ("tfjs-cpu", "browser"), ("tfjs-wasm", "browser"),
        ("tfjs-webgl", "browser"), ("onnxruntime-web", "node"), ("onnxruntime-web", "browser"),
        ("litert-js", "browser"),
    ],
)  # fmt: skip
def test_each_answers_as_the_model_does(exported: tuple[Keep, dict[str, Path]], name: str, host: str) -> None:
    keep, paths = exported
    script = replace(SCRIPTS[name], host=host)
    session = script.load(paths[script.format])
    wanted = keep.load_model("small")(X)
    for rows in (slice(0, 2), slice(2, 4)) if script.fixed else (slice(0, 4), slice(0, 1)):
        found = session({"image": X[rows]})
        assert found.keys() == {"kind", "size"}
        for output, array in found.items():
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, np.array(wanted[output])[rows], atol=1e-5)


@needs_all
def test_they_are_part_of_the_proof(exported: tuple[Keep, dict[str, Path]]) -> None:
    keep, _ = exported
    told = {export.format: [one["runtime"] for one in proof["runtimes"]] for export, proof in keep.exports("small")}
    assert told["tfjs"] == ["tfjs-cpu", "tfjs-wasm", "tfjs-webgl"]
    assert told["onnx"][0] == "onnxruntime"
    assert "onnxruntime-web" in told["onnx"]
    assert told["litert"] == ["litert", "litert-js"]
    runtimes = [one for _, proof in keep.exports("small") for one in proof["runtimes"]]
    assert all(batch["max_rel"] < 1e-5 for one in runtimes for batch in one["batches"])


@needs_all
@pytest.mark.parametrize("name", ["tfjs-cpu", "tfjs-webgl", "onnxruntime-web", "litert-js"])
def test_what_it_cannot_open_or_compute_is_an_error(
    exported: tuple[Keep, dict[str, Path]], tmp_path: Path, name: str
) -> None:
    _, paths = exported
    script = SCRIPTS[name]
    place = tmp_path / "damaged"
    if script.format == "tfjs":
        place.mkdir()
        (place / "model.json").write_text('{"weightsManifest": [{"paths": [], "weights": []}]}')
    else:
        place.write_bytes(b"\x00" * 400)
    with pytest.raises(Damaged, match=f"damaged: {name} cannot open it: "):
        script.load(place)
    session = script.load(paths[script.format])
    with pytest.raises(UsageError, match="asks for image, and picture was given"):
        session({"picture": X})
    with pytest.raises(UsageError, match=f"{name} could not compute it: "):
        session({"image": X[:, :3]})
    rows = 2 if script.fixed else 1
    assert len(session({"image": X[:rows]})["kind"]) == rows  # it goes on


KILLED = """
import os, signal, sys
from pathlib import Path
from modelkeep.runtime.table import RUNTIMES
opened = [one.load(Path(sys.argv[1])) for one in RUNTIMES if one.name in ("tfjs-cpu", "tfjs-webgl")]
children = [child._host._child.pid for child in opened]
print(*children, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_all
def test_nothing_is_left_behind_by_a_process_that_is_killed(
    exported: tuple[Keep, dict[str, Path]],
) -> None:
    _, paths = exported
    with tempfile.TemporaryDirectory(prefix="mk-", ignore_cleanup_errors=True) as folder:  # short: sockets are in it
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(paths["tfjs"])], capture_output=True, text=True, check=False,
            env={**os.environ, "TMPDIR": folder},
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        left = {int(one) for one in done.stdout.split()}
        assert len(left) == 2
        until = time.monotonic() + 30
        while left and time.monotonic() < until:
            left &= {one.pid for one in psutil.process_iter(["status"]) if one.info["status"] != psutil.STATUS_ZOMBIE}
            time.sleep(0.05)
        assert not left


@needs_all
def test_the_server_of_a_browser_gives_nothing_without_its_secret(exported: tuple[Keep, dict[str, Path]]) -> None:
    _, paths = exported
    host = Browser(paths["tfjs"], SCRIPTS["tfjs-webgl"])
    address = host.address.rstrip("/")
    with urllib.request.urlopen(f"{address}/artifact/model.json") as answer:
        assert answer.status == 200
    outside = address.rpartition("/")[0]
    for wrong in (
        f"{outside}/artifact/model.json", f"{outside}/", f"{address}/artifact/../keep.json", f"{address}/keep/x",
        f"{address}/artifact/%2e%2e/keep/keep.json", f"{address}/artifact//etc/passwd",
    ):  # fmt: skip
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(wrong)


def test_what_is_not_installed_is_told_with_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(packages.MODULES, str(tmp_path))
    packages.installed.cache_clear()
    try:
        for name, script in SCRIPTS.items():
            with pytest.raises(UsageError, match=rf"{name} is not installed; .*npm install {script.packages[0]}@"):
                script.load(tmp_path)
        assert next(one.name for one in readers("onnx") if one.version() is not None) == "onnxruntime"
    finally:
        packages.installed.cache_clear()
