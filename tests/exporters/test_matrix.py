"""The matrix of the docs is what happens: each of its cells is tried in the torture."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matrix import is_verified, states

SCRIPT = Path(__file__).with_name("model_kinds.py")
STATES = states()


def check(backend: str, kind: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), kind],
        env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads(done.stdout)
    found = {to: is_verified(cell) for to, cell in row.get("cells", {}).items()}
    wanted = {to: verified for (one, name, to), verified in STATES.items() if (one, name) == (backend, kind)}
    assert wanted
    assert (found or dict.fromkeys(wanted, False)) == wanted, row


@pytest.mark.torture
@pytest.mark.parametrize(("backend", "kind"), sorted({(backend, kind) for backend, kind, _ in STATES}), ids=str)
def test_the_matrix(backend, kind, tmp_path):
    check(backend, kind, tmp_path)


def test_the_matrix_is_whole():
    kinds = {(backend, kind) for backend, kind, _ in STATES}
    assert {backend for backend, _ in kinds} == {"tensorflow", "jax", "torch"}
    assert len({kind for _, kind in kinds}) >= 14
    assert len(kinds) == 3 * len({kind for _, kind in kinds})
