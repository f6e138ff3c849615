"""Runs trainings as processes, kills them, and compares what they end with."""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nursery import Nursery

SCRIPT = Path(__file__).with_name("train_case.py")
SOURCE = Path(__file__).parents[2] / "src"


class TrainingFailed(AssertionError):
    """A training process ended otherwise than by finishing or by SIGKILL."""


def start(case: dict[str, Any], keep: Path, out: Path, *, kill_seed: int | None = None) -> subprocess.Popen[str]:
    """Begin one process of the case; jax compiles anew in it."""
    command = [sys.executable, str(SCRIPT), *_arguments(case, keep, out, kill_seed)]
    environment = {**_environment(case), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def nursery(case: dict[str, Any], compiled: Path) -> Nursery:
    """Starts processes of the case from one that has imported what they import; jax compiles into a folder of theirs.

    A process that is killed may leave the half of a file there.
    """
    modules = ["keras", "cases", "modelkeep.training.keras.fit", *["tensorflow"] * case["data"].startswith("tf_data")]
    return Nursery(SCRIPT, modules, {**_environment(case), "JAX_COMPILATION_CACHE_DIR": str(compiled)})


def _arguments(case: dict[str, Any], keep: Path, out: Path, kill_seed: int | None) -> list[str]:
    return [json.dumps(case), str(keep), str(out), *([] if kill_seed is None else [str(kill_seed)])]


def _environment(case: dict[str, Any]) -> dict[str, str]:
    return {
        **os.environ,
        "KERAS_BACKEND": case["backend"],
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(SCRIPT.parent)]),
    }


def train(
    case: dict[str, Any], keep: Path, out: Path, *, kill_seed: int | None = None, forked_by: Nursery | None = None
) -> bool:
    """Run one process of the case. Returns whether it finished; False when it was killed, as asked.

    Raises:
        TrainingFailed: it ended in another way; with what it printed.
    """
    if forked_by is not None:
        log = Path(f"{out}.printed")
        status = forked_by.run(_arguments(case, keep, out, kill_seed), log)
        printed = log.read_text()
    else:
        process = start(case, keep, out, kill_seed=kill_seed)
        printed, _ = process.communicate(timeout=600)
        status = process.returncode
    if status == 0:
        return True
    if status == -signal.SIGKILL and kill_seed is not None:
        return False
    raise TrainingFailed(f"exit {status} of {case}\n{printed[-8000:]}")


def train_killed(
    case: dict[str, Any], keep: Path, out: Path, *, kills: int, seed: int, forked_by: Nursery
) -> list[str]:
    """Kill the case up to ``kills`` times at random moments, then let it finish in a process that is started afresh.

    Returns: what each kill hit: ``batch``, ``validation``, ``save`` or ``epoch``; fewer than ``kills`` where the
    training was done before its moment came.
    """
    finished = False
    forked = forked_by if kills > 1 else None
    for number in range(kills):
        finished = train(case, keep, out, kill_seed=seed * 1000 + number, forked_by=forked)
        if finished:
            break
    if not finished:
        train(case, keep, out)
    log = Path(f"{out}.killed")
    return log.read_text().split() if log.exists() else []


def kill_and_compare(case: dict[str, Any], folder: Path, *, kills: int, seed: int) -> list[str]:
    """Kill trainings until there were ``kills`` kills, each training compared with the one that was left alone.

    Returns: what each kill hit, as of ``train_killed``.
    """
    train(case, folder / "whole-keep", folder / "whole")
    hits: list[str] = []
    with nursery(case, folder / "compiled") as forked_by:
        for training in range(kills):
            if len(hits) >= kills:
                break
            out = folder / f"killed-{training}"
            keep = folder / f"keep-{training}"
            hits += train_killed(
                case, keep, out, kills=kills - len(hits), seed=seed + 7919 * training, forked_by=forked_by
            )
            assert_same_end(folder / "whole", out)
    return hits


def assert_same_end(first: Path, second: Path, *, parts: Sequence[str] | None = None) -> None:
    """History, every variable (of the parts) and what the callbacks hold are equal bit for bit."""
    one, other = (pickle.loads(path.read_bytes()) for path in (first, second))
    assert one["epochs"] == other["epochs"]
    assert _exact(one["history"]) == _exact(other["history"])
    assert _renamed(one["callbacks"], first) == _renamed(other["callbacks"], second)
    left, right = (
        dict(_arrays({part: tree for part, tree in each["state"].items() if parts is None or part in parts}))
        for each in (one, other)
    )
    assert left.keys() == right.keys()
    differing = [path for path in left if left[path] != right[path]]
    assert not differing, f"{len(differing)} of {len(left)} variables differ: {differing[:10]}"


def _exact(history: dict[str, list[float]]) -> dict[str, list[str]]:
    return {name: [float(value).hex() for value in values] for name, values in history.items()}


def _renamed(observed: dict[str, Any], out: Path) -> dict[str, str]:
    return {name.replace(out.name, "OUT"): repr(value) for name, value in observed.items()}


def _arrays(tree: Any, path: str = "") -> Any:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _arrays(value, f"{path}/{key}")
    elif tree is not None:
        array = np.asarray(tree)
        yield path, (str(array.dtype), array.shape, array.tobytes())
