"""Replicas of ``tf.distribute``: each has averages, metrics and seeds of its own, and a resume gives them back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("on_replicas.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), str(tmp_path_factory.mktemp("replicas") / "keep")]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("strategy", ["two", "one"])
def test_an_interrupted_training_ends_with_the_bits_of_one_left_alone(found: dict[str, Any], strategy: str) -> None:
    assert found[strategy]["differences"] == []
    assert found[strategy]["histories"]


def test_each_replica_has_its_own_averages(found: dict[str, Any]) -> None:
    first, second = found["two"]["means"]
    assert first != second
    assert found["one"]["means"] == []


def test_another_number_of_replicas_is_refused_inside_a_training(found: dict[str, Any]) -> None:
    assert "replicas was 2 and is 1" in found["fewer"]
    assert found["fewer"].count("could not be resumed") == 1  # after its end a training goes on with any


def test_weights_that_drift_apart_are_named(found: dict[str, Any]) -> None:
    assert "model/drifting/scale has another value on each replica" in found["drifting"]


def test_what_cannot_be_trained_is_refused_with_the_way_out(found: dict[str, Any]) -> None:
    assert "steps_per_execution" in found["several steps"]
    assert "MirroredStrategy, whose replicas are the devices of one process" in found["processes"]


def test_variables_of_a_loop_of_ones_own_come_back_to_each_replica(found: dict[str, Any]) -> None:
    assert found["own loop"] == {
        "state": {"weight": [1.0, 2.0], "average": [[1.0], [2.0]]},
        "after": [[1.0], [2.0]],
    }
