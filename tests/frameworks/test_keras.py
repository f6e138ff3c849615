"""Runs `keras_cases.py` once on each backend, each in a process of its own: Keras takes its backend at import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SRC = HERE.parents[1] / "src"


OPTIMIZERS = "every_optimizer"
"""Tests of so many optimizers that `make test` does not have the time for them on each backend."""


@pytest.mark.parametrize(
    ("backend", "which"),
    [
        ("tensorflow", ""),
        *((backend, f"not {OPTIMIZERS}") for backend in ("jax", "torch")),
        *(pytest.param(backend, OPTIMIZERS, marks=pytest.mark.torture) for backend in ("jax", "torch")),
    ],
)
def test_the_promises_hold_on(backend, which):
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(HERE), "-p", "no:cacheprovider", "-q"]
    env = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(SRC), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [*command, str(HERE / "keras_cases.py"), "-k", which], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
