import json
import os
import subprocess
import sys

import pytest

from modelkeep.training.fingerprint import FIXED, compare_fingerprints, fingerprint

SETUPS = {
    "numpy": "import numpy",
    "torch": "import torch",
    "jax": "import jax; jax.numpy.zeros(1)",
    "tensorflow": "import tensorflow",
    "keras": "import keras",
}

PROGRAM = """
import json, sys
{setup}
from modelkeep.training.fingerprint import fingerprint
before = set(sys.modules)
found = fingerprint()
print(json.dumps([found, sorted(set(sys.modules) - before)]))
"""


def fingerprint_after(setup: str, **variables: str) -> dict[str, dict[str, str]]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    command = [sys.executable, "-c", PROGRAM.format(setup=setup)]
    answer = subprocess.run(command, capture_output=True, check=True, env=environment)
    found, imported = json.loads(answer.stdout.splitlines()[-1])
    assert imported == []
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", sorted(SETUPS))
def test_a_framework_is_looked_at_when_it_is_imported_and_nothing_new_is(name: str) -> None:
    found = fingerprint_after(SETUPS[name])
    assert name in found["packages"]
    frameworks = {"torch", "tensorflow", "jax"} - {name}
    if name not in ("keras", "tensorflow"):
        assert not frameworks & found["packages"].keys()


def test_the_number_of_threads_is_part_of_it() -> None:
    one = fingerprint_after("import torch; torch.set_num_threads(1)")
    two = fingerprint_after("import torch; torch.set_num_threads(2)")
    assert compare_fingerprints(one, two) == ["torch threads: 1 then, 2 now"]


def test_tensorflow_threads_that_are_left_to_it_are_the_cores_it_may_use() -> None:
    setup = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import tensorflow"
    assert fingerprint_after(setup)["settings"]["tensorflow threads in an operation"] == "1"


def test_variables_that_a_framework_reads_are_part_of_it_and_where_xla_dumps_is_not() -> None:
    plain = fingerprint_after(SETUPS["jax"])
    dump = fingerprint_after(SETUPS["jax"], XLA_FLAGS="--xla_dump_to=/tmp/x")
    fast = fingerprint_after(SETUPS["jax"], XLA_FLAGS="--xla_cpu_enable_fast_math=true")
    assert compare_fingerprints(plain, dump) == []
    assert compare_fingerprints(plain, fast) == ["XLA_FLAGS: (not set) then, --xla_cpu_enable_fast_math=true now"]


def test_the_keras_backend_is_part_of_it() -> None:
    one = fingerprint_after(SETUPS["keras"], KERAS_BACKEND="jax")
    two = fingerprint_after(SETUPS["keras"], KERAS_BACKEND="torch")
    assert "keras backend: jax then, torch now" in compare_fingerprints(one, two)
    assert "keras backend: jax then, torch now" in compare_fingerprints(one, two, FIXED)


def test_a_jax_that_has_not_started_is_not_started() -> None:
    setup = "import jax"
    assert "jax devices" not in fingerprint_after(setup)["settings"]


def test_the_same_process_has_the_same_fingerprint() -> None:
    assert compare_fingerprints(fingerprint(), fingerprint()) == []


def test_what_only_one_side_has_looked_at_is_no_difference() -> None:
    one = {"packages": {"numpy": "2.1"}, "settings": {}}
    two = {"packages": {"numpy": "2.1", "torch": "2.13"}, "settings": {"torch threads": "2"}}
    assert compare_fingerprints(one, two) == []
    assert compare_fingerprints(None, two) == []
    assert compare_fingerprints({"packages": ["damaged"]}, two) == []


def test_another_framework_altogether_is_a_difference() -> None:
    assert compare_fingerprints({"packages": {"jax": "1"}}, {"packages": {"torch": "2"}}) == [
        "framework: jax then, torch now"
    ]
