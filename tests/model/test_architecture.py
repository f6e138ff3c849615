"""A model's architecture comes back: the same structure, and with the same weights the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BACKENDS = ["jax", "torch", "tensorflow"]


def ran(backend, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    found = subprocess.run(
        [sys.executable, HERE / "round_trip.py", *arguments],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder in which each backend has written each model, and what it said of them."""
    folder = tmp_path_factory.mktemp("architectures")
    return folder, {backend: ran(backend, "write", folder) for backend in BACKENDS}


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_model_is_described(written, backend):
    wrong = [f"{line['case']}: {line['wrong']}" for line in written[1][backend] if line["wrong"]]
    assert not wrong, "\n".join(wrong)
    assert len(written[1][backend]) >= 28


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_any_backend_wrote_is_built_under_this_one(written, backend, tried):
    folder, lines = written
    results = ran(backend, "read", folder, *BACKENDS)
    tried(len(results), f"models built from their architecture, {backend}", "three writers")
    assert len(results) >= sum(len(found) for found in lines.values()) - 4
    wrong = [f"{line['writer']} -> {line['case']}: {line['wrong']}" for line in results if line["wrong"]]
    assert not wrong, "\n".join(wrong)
