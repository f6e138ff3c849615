"""A Keras state saved under one backend loads under another, and training goes on with its optimizer."""

import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
SRC = HERE.parents[1] / "src"
BACKENDS = ("tensorflow", "jax", "torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the three backends saved after one epoch, and after a second one, their own and that of the others."""
    folder = tmp_path_factory.mktemp("moves")
    for backend in BACKENDS:
        run(backend, "begin", folder)
    for backend in BACKENDS:
        run(backend, "go_on", folder, *(source for source in BACKENDS if source != backend))
    return folder


def run(backend, *arguments):
    env = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(SRC), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(HERE / "keras_moves.py"), *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def arrays(path):
    with np.load(path) as found:
        return {name: found[name] for name in found.files if name.startswith(("model/", "optimizer/", "loss"))}


@pytest.mark.parametrize(("source", "target"), list(permutations(BACKENDS, 2)))
def test_the_other_backend_holds_the_same_values(folder, source, target):
    saved, loaded = arrays(folder / f"{source}.npz"), arrays(folder / f"{source}-in-{target}.npz")
    assert saved.keys() == loaded.keys()
    assert "optimizer/slots/velocity/gru/gru_cell/recurrent_kernel" in saved
    for name, value in saved.items():
        assert (loaded[name] == value).all(), name
        if value.dtype.kind == "f":
            assert (loaded[name].dtype, loaded[name].tobytes()) == (value.dtype, value.tobytes()), name


@pytest.mark.parametrize(("source", "target"), list(permutations(BACKENDS, 2)))
def test_the_other_backend_trains_on_as_the_first_would_have(folder, source, target):
    stayed, moved = arrays(folder / f"{source}-on-itself.npz"), arrays(folder / f"{source}-on-{target}.npz")
    assert stayed.keys() == moved.keys()
    assert abs(float(moved["loss"]) - float(stayed["loss"])) < 1e-6
    for name, value in stayed.items():
        np.testing.assert_allclose(moved[name], value, rtol=0, atol=1e-6, err_msg=name)
