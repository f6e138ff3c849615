"""Run the training whole, run it killed, compare, and show what the command says of it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

import modelkeep
from modelkeep.demo.picture import draw
from modelkeep.errors import Damaged, ModelkeepError
from modelkeep.state.compare import differences

CONSOLE = Console()


def main(folder: Path = Path("demo")) -> bool:
    """Train, kill, resume, compare, damage; everything is left in ``folder`` (a keep and a PNG) to look at.

    Returns: whether every weight and the whole history are equal bit for bit, and the damage was found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keep = _fresh(folder / "keep")
    _say("1", "train a CNN on handwritten digits, uninterrupted")
    _finish(_start(keep, "whole"))
    _say("2", "the same training, killed (SIGKILL) at three random moments")
    kills = _train_and_kill(keep)
    _say("3", "compare what the two runs left")
    same = _compare(keep, kills, folder / "curves.png")
    _say("4", "what is in the keep")
    _command("ls", keep)
    _command("verify", keep)
    _say("5", "flip one byte on the disk")
    found = _damage(keep)
    CONSOLE.print(f"\n[bold]{'all of it holds' if same and found else '[red]SOMETHING DIFFERS'}[/]. look at {folder}/curves.png")
    return same and found


def _fresh(keep: Path) -> Path:
    number = 1
    while (chosen := keep.with_name(f"{keep.name}-{number}")).exists():
        number += 1
    return chosen


def _start(keep: Path, run: str) -> "subprocess.Popen[bytes]":
    environment = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    command = [sys.executable, "-m", "modelkeep.demo.training", str(keep), run]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def _finish(process: "subprocess.Popen[bytes]") -> None:
    started = time.monotonic()
    with CONSOLE.status("training …"):
        code = process.wait()
    if code != 0:
        raise ModelkeepError(f"the training ended with exit code {code}; run python -m modelkeep.demo.training to see why")
    CONSOLE.print(f"   finished in {time.monotonic() - started:.0f} s")


def _train_and_kill(keep: Path) -> list[int]:
    """Kill twice at a random step and once while a checkpoint is being written; then let it finish."""
    resumed: list[int] = []
    last_step = 0
    moments: list[tuple[str, Callable[[int], bool]]] = [
        ("at a random step", lambda start: _steps(keep) >= start + random.randint(10, 90)),
        ("while a checkpoint is being written", lambda start: _steps(keep) > start + 20 and _is_writing(keep)),
        ("at a random step", lambda start: _steps(keep) >= start + random.randint(10, 90)),
    ]
    for what, is_due in moments:
        process = _start(keep, "killed")
        with CONSOLE.status("training …"):
            while process.poll() is None and not is_due(last_step):
                time.sleep(0.0003)
        process.send_signal(signal.SIGKILL)
        process.wait()
        last_step = _steps(keep)
        resumed.append(last_step)
        CONSOLE.print(f"   [red]kill -9[/] {what}: the newest whole checkpoint is of step {last_step}")
    _finish(_start(keep, "killed"))
    return resumed


def _steps(keep: Path) -> int:
    """The step of the newest checkpoint of the killed run, 0 when there is none."""
    try:
        return max((one.step for one in modelkeep.open(keep, create=False).run_record("killed").checkpoints()), default=0)
    except ModelkeepError:
        return 0


def _is_writing(keep: Path) -> bool:
    return any(path.name.endswith(".tmp") for path in (keep / "shards").glob("*/.*"))


def _compare(keep: Path, kills: list[int], picture: Path) -> bool:
    whole, killed = (modelkeep.open(keep).load_state(f"run:{name}@last") for name in ("whole", "killed"))
    found = differences(_comparable(whole), _comparable(killed))
    for line in found:
        CONSOLE.print(f"   [red]{line}[/]")
    losses = [one["training"]["callbacks"]["LossPerStep"]["own"]["losses"] for one in (whole, killed)]
    draw(losses[0].tolist(), losses[1].tolist(), kills, picture)
    if not found:
        CONSOLE.print("   weights, optimizer, history, callbacks, random generators: [bold green]equal bit for bit[/]")
    return not found
