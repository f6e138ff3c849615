"""The loops of the docs, in PyTorch, JAX and TensorFlow, killed for real: they end with the bits of one left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import modelkeep as mk

DOCS = Path(__file__).parents[2] / "docs"
LOOPS = ("torch", "jax", "tensorflow")
EPOCHS = "12"


def start(loop: str, keep: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(DOCS / f"loop_{loop}.py"), str(keep), EPOCHS], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )  # fmt: skip


def ended(process: "subprocess.Popen[str]", code: int = 0) -> str:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors[-3000:]
    return out


def newest(keep: Path) -> int:
    """The number of the newest checkpoint, whose name counts down; retention removes older ones."""
    folder = keep / "runs" / "digits" / "checkpoints"
    return max((9_999_999_999 - int(path.stem) for path in folder.glob("*.json")), default=0)


def stopped(loop: str, keep: Path, number: int, checkpoints: int) -> int:
    """Start the loop, send a signal some moments after so many more checkpoints; returns the newest then."""
    process = start(loop, keep)
    wanted = newest(keep) + checkpoints
    while newest(keep) < wanted and process.poll() is None:
        time.sleep(0.001)
    time.sleep(random.random() * 0.02)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == (75 if number == signal.SIGTERM else -number)
    return newest(keep)


def kill_and_compare(loop: str, folder: Path, kills: int) -> None:
    whole = ended(start(loop, folder / "whole"))
    assert whole.startswith("from step 0 to 336: ")
    killed = folder / "killed"
    done = 0
    while done < kills:
        keep = killed / str(done)
        for checkpoints in random.Random(done).sample(range(2, 6), 4):
            if done < kills and newest(keep) + checkpoints < 30:
                stopped(loop, keep, signal.SIGKILL, checkpoints)
                done += 1
        out = ended(start(loop, keep))
        assert not out.startswith("from step 0 ")
        assert out.split(": ")[1] == whole.split(": ")[1]
        runs = mk.open(keep).runs()
        assert [(run.name, run.exact) for run in runs] == [("digits", True)]


@pytest.mark.parametrize("loop", [LOOPS[0], *(pytest.param(one, marks=pytest.mark.torture) for one in LOOPS[1:])])
def test_a_loop_that_is_killed_ends_with_the_same_bits(loop: str, tmp_path: Path) -> None:
    kill_and_compare(loop, tmp_path, 2)


@pytest.mark.torture
@pytest.mark.parametrize("loop", LOOPS)
def test_twenty_kills_of_a_loop_change_no_bit(loop: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    kill_and_compare(loop, tmp_path, 20)
    tried(20, f"SIGKILLs of a loop of one's own: {loop}", "")


def test_sigterm_saves_the_step_and_ends_with_75(tmp_path: Path) -> None:
    whole = ended(start("torch", tmp_path / "whole"))
    keep = tmp_path / "stopped"
    stopped("torch", keep, signal.SIGTERM, 2)
    with mk.open(keep, create=False).run("digits") as run:
        last = run.resumed[0]
    assert last.reason == "signal"
    out = ended(start("torch", keep))
    assert out.startswith(f"from step {last.step} ")
    assert out.split(": ")[1] == whole.split(": ")[1]


@pytest.mark.parametrize("loop", LOOPS)
def test_the_examples_are_short(loop: str) -> None:
    assert len((DOCS / f"loop_{loop}.py").read_text().splitlines()) < 60
