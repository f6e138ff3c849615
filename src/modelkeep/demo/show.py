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
from modelkeep.errors import Damaged, ModelkeepError, StorageError
from modelkeep.keep import Keep
from modelkeep.state.compare import differences

Process = subprocess.Popen[bytes]


def main(folder: Path = Path("demo-out")) -> bool:
    """Train, kill, resume, compare, damage; everything is left in ``folder`` (a keep and a PNG) to look at.

    Returns: whether every weight and the whole history are equal bit for bit, and the damage was found.

    Raises:
        StorageError: ``folder`` cannot be made.
        ModelkeepError: a training process ended otherwise than it should.
    """
    console = Console()
    keep = _fresh(folder)
    console.rule("[bold]1[/]  train a CNN on handwritten digits, uninterrupted", align="left")
    _finish(_start(keep, "whole"), console)
    console.rule("[bold]2[/]  the same training, killed (SIGKILL) at three random moments", align="left")
    kills = _train_and_kill(keep, console)
    console.rule("[bold]3[/]  compare what the two runs left", align="left")
    picture = folder / "curves.png"
    same = _compare(modelkeep.open(keep), kills, picture, console)
    console.rule("[bold]4[/]  what is in the keep", align="left")
    _command("ls", keep)
    _command("verify", keep)
    console.rule("[bold]5[/]  flip one bit on the disk", align="left")
    found = _damage(modelkeep.open(keep), keep, console)
    verdict = "[bold green]every promise held[/]" if same and found else "[bold red]A PROMISE WAS BROKEN[/]"
    console.print(f"\n{verdict}; look at {picture} and at {keep}")
    return same and found


def _fresh(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else str(error.strerror).lower()
        raise StorageError(f"could not make the folder {folder}: {reason}; name another with --folder") from None
    number = 1
    while (keep := folder / f"keep-{number}").exists():
        number += 1
    return keep


def _start(keep: Path, run: str) -> Process:
    environment = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    command = [sys.executable, "-m", "modelkeep.demo.training", str(keep), run]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def _finish(process: Process, console: Console) -> None:
    started = time.monotonic()
    with console.status("training …"):
        code = process.wait()
    if code != 0:
        command = "python -m modelkeep.demo.training KEEP RUN"
        raise ModelkeepError(f"the demo's training ended with exit code {code}; run `{command}` to see why")
    console.print(f"   finished in {time.monotonic() - started:.0f} s")


def _train_and_kill(keep: Path, console: Console) -> list[int]:
    """Kill twice at a random step and once while a checkpoint is being written; then let it finish.

    Returns: for each kill the step of the newest checkpoint, from which the next process goes on.
    """
    moments: list[tuple[str, Callable[[], bool]]] = [
        ("at a random moment", lambda: True),
        ("while a checkpoint is being written", lambda: _is_writing(keep)),
        ("at a random moment", lambda: True),
    ]
    resumed: list[int] = []
    for what, is_the_moment in moments:
        process = _start(keep, "killed")
        goal = _newest_step(keep) + random.randint(20, 100)
        with console.status("training …"):
            while process.poll() is None and _newest_step(keep) < goal:
                time.sleep(0.02)
            time.sleep(random.uniform(0, 0.1))
            while process.poll() is None and not is_the_moment():
                pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        resumed.append(_newest_step(keep))
        console.print(f"   [red]kill -9[/] {what}: the newest whole checkpoint is of step {resumed[-1]}")
    _finish(_start(keep, "killed"), console)
    return resumed


def _newest_step(keep: Path) -> int:
    try:
        checkpoints = modelkeep.open(keep, create=False).store.run("killed").checkpoints()
    except ModelkeepError:
        return 0  # the process has not got that far yet
    return checkpoints[0].step if checkpoints else 0


def _is_writing(keep: Path) -> bool:
    """Whether a shard lies under its temporary name: its bytes are on the way to the disk."""
    return any((keep / "shards").glob("*/.*.tmp"))


def _compare(keep: Keep, kills: list[int], picture: Path, console: Console) -> bool:
    whole, killed = keep.load_state("run:whole@last"), keep.load_state("run:killed@last")
    found = differences(whole, killed)
    for line in found:
        console.print(f"   [red]{line}[/]")
    if not found:
        console.print(f"   {_count(whole)} arrays of weights, optimizer, callbacks and generators, and the history:")
        console.print("   [bold green]equal bit for bit[/]")
    losses = [one["training"]["callbacks"]["LossPerStep"]["own"]["losses"].tolist() for one in (whole, killed)]
    draw(losses[0], losses[1], kills, picture)
    return not found


def _count(tree: Any) -> int:
    if isinstance(tree, dict | list | tuple):
        return sum(map(_count, tree.values() if isinstance(tree, dict) else tree))
    return int(hasattr(tree, "dtype"))


def _command(name: str, keep: Path) -> None:
    command = [sys.executable, "-m", "modelkeep", name, "--keep", str(keep)]
    subprocess.run(command, check=False)


def _damage(keep: Keep, folder: Path, console: Console) -> bool:
    """Flip a bit in the newest checkpoint of the killed run, and load it.

    Returns: whether the damage was found, and by name.
    """
    shard = max((folder / "shards").glob("*/*.safetensors"), key=lambda path: path.stat().st_size)
    shard.chmod(0o644)
    with shard.open("r+b") as file:
        file.seek(shard.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0b100]))
    console.print(f"   flipped bit 2 of byte {shard.stat().st_size // 2} of {shard.relative_to(folder)}")
    try:
        keep.load_state("run:whole@last")
        keep.load_state("run:killed@last")
    except Damaged as error:
        console.print(f"   loading it: [green]refused[/]: {error}")
        return True
    console.print("   [red]it was loaded without a word[/]")
    return False
