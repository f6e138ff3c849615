"""A notebook survives Ctrl-C: the state is saved, the kernel lives, and the cell run again goes on to the same bits."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import KernelManager

import modelkeep as mk

CELL = """
import keras, numpy as np, modelkeep as mk
keep = mk.open({folder!r})
run = keep.run("nb", seed=1, capture=False)
x = np.random.default_rng(0).random((256, 8), "float32")
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
model.compile("adam", "mse")
each = mk.every(epochs=1)
history = mk.keras.fit(model, x, x[:, :1], epochs=60, batch_size=8, run=run, verbose=0, checkpoint=each)
print("ended with", [float(loss).hex() for loss in history.history["loss"]], model.get_weights()[0].tobytes().hex())
"""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A real kernel, of this interpreter, with its client."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def run_cell(client: Any, code: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """The reply, what was printed, and the data of the last expression."""
    printed: list[str] = []
    shown: dict[str, Any] = {}

    def note(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["header"]["msg_type"] == "stream":
            printed.append(content["text"])
        elif message["header"]["msg_type"] == "execute_result":
            shown.update(content["data"])

    reply = client.execute_interactive(code, timeout=300, output_hook=note)
    return reply["content"], "".join(printed), shown


def ended_with(printed: str) -> str:
    return next(line for line in printed.splitlines() if line.startswith("ended with"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_cell_run_again_goes_on(kernel: Any, tmp_path: Path, number: int) -> None:
    manager, client = kernel
    cell = CELL.format(folder=str(tmp_path / "keep"))
    waiting = client.execute(cell)
    checkpoints = tmp_path / "keep" / "runs" / "nb" / "checkpoints"
    while len(list(checkpoints.glob("*.json"))) < 3:
        assert manager.is_alive()
        time.sleep(0.02)
    os.kill(manager.provisioner.pid, number)
    reply = client.get_shell_msg(timeout=120)
    while reply["parent_header"].get("msg_id") != waiting:
        reply = client.get_shell_msg(timeout=120)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert mk.open(tmp_path / "keep").store.run("nb").checkpoints()[0].reason == "signal"

    _, printed, _ = run_cell(client, cell)
    _, whole, _ = run_cell(client, CELL.format(folder=str(tmp_path / "whole")))
    assert ended_with(printed) == ended_with(whole)
    for name in ("keep", "run", "keep.snapshot('nb@last')"):
        content, _, shown = run_cell(client, name)
        assert content["status"] == "ok"
        assert "<table>" in shown["text/html"]
