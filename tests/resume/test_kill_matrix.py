"""A training killed at random moments ends with the bits of one that was left alone.

The matrix is {backend} x {kind of data} x {schedule}. A sample runs by default, all of it with 20 kills a case under
``-m torture``.
"""

from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from harness import kill_and_compare

BACKENDS = ("tensorflow", "jax", "torch")
SCHEDULES = {
    "plateau": {"callbacks": "plateau"},
    "decayed": {"callbacks": "files", "schedule": "decayed"},
}
DATA = ("arrays", "tf_data", "py_dataset", "loader", "loader_weighted_workers", "grain_stream")
MATRIX = list(product(BACKENDS, DATA, SCHEDULES))
SAMPLE = [("tensorflow", "tf_data", "plateau")]
"""What `make test` kills, beside a plain `fit`, a loop of one's own and Lightning."""


def matrix_case(backend: str, data: str, schedule: str) -> dict[str, Any]:
    return {"backend": backend, "data": data, **SCHEDULES[schedule]}


@pytest.mark.parametrize(("backend", "data", "schedule"), SAMPLE)
def test_a_killed_training_ends_with_the_same_bits(backend: str, data: str, schedule: str, tmp_path: Path) -> None:
    case = matrix_case(backend, data, schedule)
    assert len(kill_and_compare(case, tmp_path, kills=1, seed=sum(map(ord, backend + data + schedule)))) == 1


@pytest.mark.torture
@pytest.mark.parametrize(("backend", "data", "schedule"), MATRIX)
def test_twenty_kills_change_no_bit(
    backend: str, data: str, schedule: str, tmp_path: Path, tried: Callable[..., None]
) -> None:
    case = matrix_case(backend, data, schedule)
    hits = kill_and_compare(case, tmp_path, kills=20, seed=sum(map(ord, backend + data + schedule)))
    where = ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(hits).items()))
    tried(len(hits), f"SIGKILLs of a training: {backend}, {data}, {schedule}", where)
    assert len(hits) == 20
