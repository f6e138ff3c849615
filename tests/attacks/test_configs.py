"""Architectures by an attacker: a typed error, no code run, nothing opened, memory within the budget, and soon."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SLACK = 160 << 20
"""What Keras, a backend's start and the JSON itself take beside the arrays that the budget counts."""


def attacked(backend, folder):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    program = [sys.executable, HERE / "run_configs.py", folder]
    found = subprocess.run(
        program, check=False, env=environment, cwd=folder, capture_output=True, text=True, timeout=500
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return [json.loads(line) for line in found.stdout.splitlines()]


@pytest.mark.parametrize(
    "backend", ["tensorflow", *(pytest.param(one, marks=pytest.mark.torture) for one in ("jax", "torch"))]
)
def test_hostile_architectures_are_refused_before_they_do_anything(backend, tmp_path, tried):
    results = attacked(backend, tmp_path)
    assert len(results) >= 150
    tried(len(results), f"hostile architectures, {backend}", "refused, nothing run")
    wrong = []
    for result in results:
        limit = result["budget"].get("nbytes", 1 << 28) if "budget" in result else 0
        if result["raised"] != result["wanted"]:
            wrong.append(f"{result['case']}: {result['wanted']} is wanted, not {result['raised']}")
        elif result["canary"] or result["seen"]:
            wrong.append(f"{result['case']}: {result['canary']} {result['seen']}")
        elif result["grown"] > limit + SLACK:
            wrong.append(f"{result['case']}: memory grew by {result['grown'] >> 20} MiB")
    assert not wrong, "\n".join(wrong)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
        "canary",
        "evil_module.py",
    ]
