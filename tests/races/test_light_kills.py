"""SIGKILL after SIGKILL of a tight loop of saves: the last acknowledged state always loads."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kill(folder: Path, count: int, seed: int, tried: Callable[..., None]) -> None:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.races.killer", str(folder), str(count), "--seed", str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its pool is no part of this, and forks badly
    )
    print(found.stdout, found.stderr)
    tried(count, "SIGKILLs of a tight loop of saves", found.stdout.strip())
    assert found.returncode == 0, found.stderr[-3000:]
    assert re.match(rf"kills {count}, acknowledged \d+, .*lost 0", found.stdout)
    assert found.stderr == ""


def test_after_150_kills_the_last_acknowledged_state_has_loaded_each_time(
    tmp_path: Path, tried: Callable[..., None]
) -> None:
    kill(tmp_path, 150, seed=1, tried=tried)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_after_10_000_kills_the_last_acknowledged_state_has_loaded_each_time(
    tmp_path: Path, tried: Callable[..., None]
) -> None:
    kill(tmp_path, 10_000, seed=2, tried=tried)
