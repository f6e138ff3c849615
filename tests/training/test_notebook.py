"""A notebook survives Ctrl-C: the state is saved, the kernel lives, and the cell run again goes on to the same bits."""

import os
import queue
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client import KernelManager

import modelkeep as mk

# The gate holds the training in its middle until the signal was sent, however slow or fast the machine is.
CELL = """
import keras, numpy as np, pathlib, time, modelkeep as mk

class Gate(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        while epoch == 5 and not pathlib.Path({gate!r}).exists():
            time.sleep(0.01)

keep = mk.open({folder!r})
run = keep.run("nb", seed=1)
x = np.random.default_rng(0).random((256, 8), "float32")
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
model.compile("adam", "mse", metrics=["mae"])
each = mk.every(epochs=1)
options = dict(epochs=30, batch_size=8, validation_split=0.25, callbacks=[Gate()], verbose=0)
history = mk.keras.fit(model, x, x[:, :1], run=run, checkpoint=each, **options)
rows = {{name: [float(value).hex() for value in values] for name, values in sorted(history.history.items())}}
print("ended with", rows, [weight.tobytes().hex() for weight in model.get_weights()])
"""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A real kernel, of this interpreter, with its client; nothing of it lies in the user's home."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    process = psutil.Process(manager.provisioner.pid)
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=120)
        yield manager, client
    finally:
        family = [process, *(process.children(recursive=True) if manager.is_alive() else [])]
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    _, left = psutil.wait_procs(family, timeout=60)
    assert not left


def run_cell(client: Any, code: str) -> tuple[str, dict[str, Any]]:
    """What a cell that ends well printed, and the data of its last expression."""
    printed: list[str] = []
    shown: dict[str, Any] = {}

    def note(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["header"]["msg_type"] == "stream":
            printed.append(content["text"])
        elif message["header"]["msg_type"] == "execute_result":
            shown.update(content["data"])

    reply = client.execute_interactive(code, timeout=300, output_hook=note)["content"]
    assert reply["status"] == "ok", reply
    return "".join(printed), shown


def reply_to(client: Any, message: str) -> dict[str, Any]:
    """The reply to one request; what came late to others is passed over."""
    while True:
        reply: dict[str, Any] = client.get_shell_msg(timeout=120)
        if reply["parent_header"].get("msg_id") == message:
            return reply["content"]


def wait_while_it_runs(manager: Any, client: Any, message: str, is_so: Callable[[], bool]) -> None:
    """Return when something is so; that the cell ends before is an error."""
    while not is_so():
        assert manager.is_alive()
        with suppress(queue.Empty):
            reply = client.get_shell_msg(timeout=0.05)
            assert reply["parent_header"].get("msg_id") != message, reply["content"]


def ended_with(printed: str) -> str:
    return next(line for line in printed.splitlines() if line.startswith("ended with"))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.torture)])
def test_a_signal_saves_and_the_cell_run_again_goes_on(kernel: Any, tmp_path: Path, number: int) -> None:
    manager, client = kernel
    gate = tmp_path / "gate"
    cell = CELL.format(folder=str(tmp_path / "keep"), gate=str(gate))
    waiting = client.execute(cell, stop_on_error=False)  # or the next cell, sent at once, is aborted with this one
    checkpoints = tmp_path / "keep" / "runs" / "nb" / "checkpoints"
    wait_while_it_runs(manager, client, waiting, lambda: len(list(checkpoints.glob("*.json"))) >= 3)
    if number == signal.SIGINT:
        manager.interrupt_kernel()
    else:
        os.kill(manager.provisioner.pid, number)
    gate.touch()
    reply = reply_to(client, waiting)
    assert (reply["status"], reply.get("ename")) == ("error", "KeyboardInterrupt")
    assert run_cell(client, "print(6 * 7)")[0] == "42\n"
    record = mk.open(tmp_path / "keep").store.run("nb")
    saved = record.checkpoints()[0]
    assert saved.reason == "signal"
    assert 0 < saved.epoch < 30

    printed, _ = run_cell(client, cell)
    # A training that was begun anew would end with the same bits too: this one went on from what the signal saved.
    resumed_from: Any = record.attempts()[-1].info["resumed_from"]
    assert resumed_from["checkpoint"] == saved.number
    whole, _ = run_cell(client, CELL.format(folder=str(tmp_path / "whole"), gate=str(gate)))
    assert ended_with(printed) == ended_with(whole)
    for name in ("keep", "run", "keep.snapshot('nb@last')"):
        _, shown = run_cell(client, name)
        assert "<table>" in shown["text/html"]
