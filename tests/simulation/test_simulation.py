"""Random programs on a simulated machine, in a process with a fixed order of sets, so that a seed replays them."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def play(*options: str) -> str:
    """Play programs in a new process; return what it printed. A broken promise shows how to play it again."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    print(found.stdout[-5000:])
    assert found.returncode == 0, found.stderr[-5000:]
    return found.stdout


def test_whatever_befalls_a_keep_nothing_acknowledged_is_lost_and_nothing_wrong_is_loaded() -> None:
    told = play("--seeds", "0:1000", "--seconds", "12")
    assert int(re.findall(r"programs (\d+)", told)[0]) > 5


def test_nor_in_a_bucket() -> None:
    told = play("--bucket", "--seeds", "0:1000", "--seconds", "8")
    assert int(re.findall(r"programs (\d+)", told)[0]) > 3


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("options", "programs"), [((), 10_000), (("--bucket",), 3_000)], ids=["disk", "bucket"])
def test_thousands_of_programs_break_no_promise(
    options: tuple[str, ...], programs: int, tried: Callable[..., None]
) -> None:
    told = play(*options, "--seeds", f"1000:{1000 + programs}", "--all")
    tried(
        programs, f"random programs on a simulated machine {' '.join(options)}", told.splitlines()[0].partition(", ")[2]
    )
    assert f"programs {programs}, broken 0" in told


def test_a_seed_plays_the_same_calls_in_another_process() -> None:
    first, second = (play("--seeds", "3:9", "--digest") for _ in range(2))
    one, other = (re.findall(r"digest ([0-9a-f]+)", told) for told in (first, second))
    assert one == other
    assert len(set(one)) == 6
