"""SIGTERM and Ctrl-C finish the step, save, and leave; the same command goes on to the same bits."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from harness import assert_same_end, start, train

CASE = {"backend": "tensorflow", "data": "arrays", "every": {"epochs": 1}, "fit": {"epochs": 12}, "callbacks": "files"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(CASE, folder / "keep", folder / "whole")
    return folder / "whole"


def signal_when_training(case: dict[str, Any], folder: Path, *signals: int) -> subprocess.Popen[str]:
    """Start, wait for the second checkpoint, and send the signals one after the other."""
    process = start(case, folder / "keep", folder / "out")
    checkpoints = folder / "keep" / "runs" / "case" / "checkpoints"
    while process.poll() is None and len(list(checkpoints.glob("*.json"))) < 2:
        time.sleep(0.01)
    for number in signals:
        process.send_signal(number)
    return process


def newest(folder: Path) -> Any:
    import modelkeep as mk

    return mk.open(folder / "keep").store.run("case").checkpoints()[0]


def test_sigterm_saves_inside_the_epoch_and_exits_with_75(whole: Path, tmp_path: Path) -> None:
    process = signal_when_training(CASE, tmp_path, signal.SIGTERM)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 75, printed
    assert newest(tmp_path).reason == "signal"
    train(CASE, tmp_path / "keep", tmp_path / "out")
    assert_same_end(whole, tmp_path / "out")


@pytest.mark.torture
def test_ctrl_c_saves_and_raises_keyboard_interrupt(whole: Path, tmp_path: Path) -> None:
    process = signal_when_training(CASE, tmp_path, signal.SIGINT)
    printed, _ = process.communicate(timeout=300)
    assert "KeyboardInterrupt" in printed
    assert newest(tmp_path).reason == "signal"
    train(CASE, tmp_path / "keep", tmp_path / "out")
    assert_same_end(whole, tmp_path / "out")


@pytest.mark.torture
def test_a_second_ctrl_c_ends_at_once_and_harms_nothing(whole: Path, tmp_path: Path) -> None:
    process = signal_when_training(CASE, tmp_path, signal.SIGINT, signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode != 0
    train(CASE, tmp_path / "keep", tmp_path / "out")
    assert_same_end(whole, tmp_path / "out")


IN_VALIDATION: dict[str, dict[str, Any]] = {
    "tensorflow": {"backend": "tensorflow", "data": "tf_data", "model": "noisy"},
    "jax": {"backend": "jax", "data": "py_dataset", "model": "noisy"},
    "torch": {"backend": "torch", "data": "arrays", "model": "noisy", "callbacks": "files"},
    "averaged weights swapped in": {
        "backend": "tensorflow",
        "data": "arrays",
        "callbacks": "averaged",
        "optimizer": {"use_ema": True, "ema_momentum": 0.9},
    },
    "after a callback has ended the training": {"backend": "jax", "data": "tf_data", "callbacks": "stopping"},
    "several steps an execution, a step of its own": {
        "backend": "jax",
        "data": "arrays_steps",
        "model": "custom_step",
        "compile": {"steps_per_execution": 3},
    },
}


RARER = (
    "averaged weights swapped in", "after a callback has ended the training",
    "several steps an execution, a step of its own", "jax", "torch",
)  # fmt: skip
"""Left to torture, so that `make test` stays within its time."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.torture if name in RARER else ()) for name in IN_VALIDATION]
)
def test_sigterm_inside_a_validation_does_not_wait_for_its_end(name: str, tmp_path: Path) -> None:
    case = IN_VALIDATION[name]
    train(case, tmp_path / "whole-keep", tmp_path / "whole")
    process = start({**case, "term": 3}, tmp_path / "keep", tmp_path / "out")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 75, printed
    checkpoint = newest(tmp_path)
    assert (checkpoint.reason, checkpoint.epoch) == ("signal", 2)  # the third epoch is not done
    train({**case, "term": 3}, tmp_path / "keep", tmp_path / "out")
    assert_same_end(tmp_path / "whole", tmp_path / "out")


def test_another_process_on_the_same_run_is_refused_by_name(tmp_path: Path) -> None:
    longer = {**CASE, "fit": {"epochs": 10_000}}
    process = signal_when_training(longer, tmp_path)
    second = start(longer, tmp_path / "keep", tmp_path / "second")
    printed, _ = second.communicate(timeout=300)
    process.kill()
    process.communicate()
    assert second.returncode == 1
    assert "RunLocked" in printed
    assert str(process.pid) in printed
