"""The callback for a plain ``model.fit`` saves, resumes at an epoch's start, and ends with the same bits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import SOURCE, assert_same_end

SCRIPT = """
import os, pickle, signal, sys
from pathlib import Path
import keras
import numpy as np
import cases
import modelkeep as mk
from modelkeep.frameworks import keras as keras_door

keep, out, die_in = sys.argv[1], sys.argv[2], int(sys.argv[3])
run = mk.open(keep).run("plain", seed=3)
x, y, val_x, val_y = cases.digits()
model = cases.cnn({})
stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
plateau = keras.callbacks.ReduceLROnPlateau(patience=1, min_delta=0.2)

def maybe_die(batch, logs):
    if len(model.history.epoch) == die_in and batch == 5:
        os.kill(os.getpid(), signal.SIGKILL)

dying = keras.callbacks.LambdaCallback(on_train_batch_end=maybe_die)
history = model.fit(x, y, batch_size=32, epochs=5, verbose=0, validation_data=(val_x, val_y),
                    callbacks=[mk.keras.Checkpoint(run), stop, plateau, dying])
observed = {"best": stop.best, "wait": stop.wait, "plateau": plateau.wait}
state = keras_door.state_of(model, copy=True)
result = {"history": history.history, "epochs": history.epoch, "state": state, "callbacks": observed}
Path(out).write_bytes(pickle.dumps(result))
"""


def run_script(backend: str, keep: Path, out: Path, die_in: int = -1) -> int:
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(Path(__file__).parent)]),
    }
    command = [sys.executable, "-c", SCRIPT, str(keep), str(out), str(die_in)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-4000:]
    return done.returncode


@pytest.mark.parametrize(
    "backend", ["tensorflow", *(pytest.param(one, marks=pytest.mark.torture) for one in ("jax", "torch"))]
)
def test_a_killed_fit_goes_on_at_the_start_of_its_epoch(backend: str, tmp_path: Path) -> None:
    run_script(backend, tmp_path / "whole-keep", tmp_path / "whole")
    assert run_script(backend, tmp_path / "keep", tmp_path / "out", die_in=2) == -signal.SIGKILL
    assert run_script(backend, tmp_path / "keep", tmp_path / "out") == 0
    assert_same_end(tmp_path / "whole", tmp_path / "out")


@pytest.mark.torture
def test_a_finished_fit_trains_no_further(tmp_path: Path) -> None:
    run_script("torch", tmp_path / "keep", tmp_path / "first")
    run_script("torch", tmp_path / "keep", tmp_path / "again")
    assert_same_end(tmp_path / "first", tmp_path / "again", parts=("model", "optimizer"))


TERMINATED = SCRIPT.replace(
    "os.kill(os.getpid(), signal.SIGKILL)",
    "os.kill(os.getpid(), signal.SIGTERM)",
)


@pytest.mark.torture
def test_sigterm_keeps_the_save_under_way_and_exits_with_75(tmp_path: Path) -> None:
    path = os.pathsep.join([str(SOURCE), str(Path(__file__).parent)])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": path}
    command = [sys.executable, "-c", TERMINATED, str(tmp_path / "keep"), str(tmp_path / "out"), "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 75, done.stderr[-3000:]
    import modelkeep as mk

    assert mk.open(tmp_path / "keep").store.run("plain").checkpoints()[0].epoch == 2
    run_script("jax", tmp_path / "whole-keep", tmp_path / "whole")
    run_script("jax", tmp_path / "keep", tmp_path / "out")
    assert_same_end(tmp_path / "whole", tmp_path / "out")
