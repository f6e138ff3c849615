"""Replicas of ``tf.distribute``: each has averages, metrics and seeds of its own, and a resume gives them back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("on_replicas.py")


def test_replicas_are_resumed_each_with_what_is_its_own(tmp_path: Path) -> None:
    """One process for all: to start TensorFlow takes longer than what is tried in it."""
    command = [sys.executable, str(PROGRAM), str(tmp_path / "keep")]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])

    # A training that was interrupted ends with the bits of one that was left alone.
    for strategy in ("two", "one"):
        assert found[strategy]["differences"] == []
        assert found[strategy]["histories"]
    first, second = found["two"]["means"]
    assert first != second
    assert found["one"]["means"] == []

    # Another number of replicas is refused inside a training; after its end it goes on with any.
    assert "replicas was 2 and is 1" in found["fewer"]
    assert found["fewer"].count("could not be resumed") == 1

    # What cannot be kept or trained is refused with the way out.
    assert "model/drifting/scale has another value on each replica" in found["drifting"]
    assert "steps_per_execution" in found["several steps"]
    assert "MirroredStrategy, whose replicas are the devices of one process" in found["central"]

    # Variables of a loop of one's own come back to each replica.
    state = {"weight": [1.0, 2.0], "average": [[1.0], [2.0]]}
    assert found["own loop"] == {"state": state, "after": state["average"]}
