import os
import random
import subprocess
import sys

import numpy as np
import pytest

from modelkeep.errors import UsageError
from modelkeep.training.seeding import check_seed, draw_seed, seed_generators

DRAWS = {
    "tensorflow": "import tensorflow as tf; draw = lambda: tf.random.uniform([2]).numpy().tolist()",
    "torch": "import torch; draw = lambda: torch.rand(2).tolist()",
    "jax": "import keras; draw = lambda: keras.ops.convert_to_numpy(keras.random.uniform([2])).tolist()",
}

PROGRAM = """
import sys
{setup}
from modelkeep.training.seeding import seed_generators
before = set(sys.modules)
seed_generators(7)
assert not [name for name in set(sys.modules) - before if name.split(".")[0] in ("tensorflow", "torch", "jax")]
first = draw()
draw()
seed_generators(7)
assert draw() == first
print(first)
"""


@pytest.mark.parametrize("name", sorted(DRAWS))
def test_two_processes_with_one_seed_draw_the_same(name: str) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": name}
    command = [sys.executable, "-c", PROGRAM.format(setup=DRAWS[name])]
    first, second = (subprocess.run(command, capture_output=True, env=environment, check=True).stdout for _ in "ab")
    assert first == second != b""


def test_python_and_numpy_are_seeded() -> None:
    seed_generators(7)
    first = random.random(), np.random.random()
    seed_generators(7)
    assert (random.random(), np.random.random()) == first


@pytest.mark.parametrize("seed", [-1, 1 << 32, 1.5, True, "7"])
def test_a_seed_that_some_framework_would_refuse_is_refused_at_once(seed: object) -> None:
    with pytest.raises(UsageError, match="whole number from 0 to 4294967295"):
        check_seed(seed)  # type: ignore[arg-type]


def test_every_seed_that_is_taken_can_be_set() -> None:
    for seed in (0, np.int64(3), (1 << 32) - 1, draw_seed()):
        seed_generators(check_seed(int(seed)))


LATER = """
import os, sys
from modelkeep.training.seeding import seed_generators
seed_generators({first})
seed_generators(7)
import importlib.util
importlib.util.find_spec("{module}")  # many libraries look whether a framework is there
assert "{module}" not in sys.modules
{setup}
import {module}
assert type({module}.__spec__.loader).__name__ == type({module}.__loader__).__name__ == "SourceFileLoader"
print(draw())
"""


@pytest.mark.parametrize(
    "name", ["torch", *(pytest.param(one, marks=pytest.mark.torture) for one in ("jax", "tensorflow"))]
)
def test_a_framework_that_is_imported_later_is_seeded_then_with_the_newest_seed(name: str) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": name}
    module = DRAWS[name].split(";")[0].split()[1]
    drawn = []
    for program in (LATER.format(first=3, module=module, setup=DRAWS[name]), PROGRAM.format(setup=DRAWS[name])):
        command = [sys.executable, "-c", program]
        answer = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert answer.returncode == 0, answer.stderr.decode()
        drawn.append(answer.stdout)
    if name != "jax":  # there Keras draws from Python's generator, which the imports between have used
        assert drawn[0] == drawn[1]


def test_a_module_that_is_not_there_is_still_not_there() -> None:
    program = """
import sys
from modelkeep.training import seeding
seeding._SEEDERS["not_a_module"] = print
seeding.seed_generators(7)
try:
    import not_a_module
except ModuleNotFoundError:
    print("absent")
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert answer.stdout == b"absent\n"
