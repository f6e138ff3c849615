"""The loops of the docs, in PyTorch, JAX and TensorFlow, killed for real: they end with the bits of one left alone."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import Program

import modelkeep as mk

DOCS = Path(__file__).parents[2] / "docs"
LOOPS = ("torch", "jax", "tensorflow")


def program(loop: str) -> Program:
    return Program(DOCS / f"loop_{loop}.py", "digits", after=("12",))


@pytest.mark.parametrize("loop", [LOOPS[0], *(pytest.param(one, marks=pytest.mark.torture) for one in LOOPS[1:])])
def test_a_loop_that_is_killed_ends_with_the_same_bits(loop: str, tmp_path: Path) -> None:
    program(loop).kill_and_compare(tmp_path, 2, last=30)
    assert [(run.name, run.exact) for run in mk.open(tmp_path / "killed" / "0").runs()] == [("digits", True)]


@pytest.mark.torture
@pytest.mark.parametrize("loop", LOOPS)
def test_twenty_kills_of_a_loop_change_no_bit(loop: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    program(loop).kill_and_compare(tmp_path, 20, last=30)
    tried(20, f"SIGKILLs of a loop of one's own: {loop}", "")


def test_sigterm_saves_the_step_and_ends_with_75(tmp_path: Path) -> None:
    whole = program("torch").to_its_end(tmp_path / "whole")
    assert whole.startswith("from step 0 to 336: ")
    keep = tmp_path / "stopped"
    assert program("torch").stopped(keep, signal.SIGTERM, 2)
    with mk.open(keep, create=False).run("digits") as run:
        last = run.resumed[0]
    assert last.reason == "signal"
    out = program("torch").to_its_end(keep)
    assert out.startswith(f"from step {last.step} ")
    assert out.split(": ")[1] == whole.split(": ")[1]


@pytest.mark.parametrize("loop", LOOPS)
def test_the_examples_are_short(loop: str) -> None:
    assert len((DOCS / f"loop_{loop}.py").read_text().splitlines()) < 60
