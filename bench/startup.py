"""What a person waits for before anything happens: import and ``--help``."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from time import perf_counter

from bench import contest
from bench.contest import Contender
from bench.report import Report, compared
from bench.settings import Settings


def run(settings: Settings) -> list[Report]:
    """The table of start-up times, each a process of its own."""
    python, command = sys.executable, str(Path(sys.executable).with_name("modelkeep"))
    wanted = [
        ("python, nothing", "limit", [python, "-c", "pass"]),
        ("import numpy", "peer", [python, "-c", "import numpy"]),
        ("import safetensors.numpy", "peer", [python, "-c", "import safetensors.numpy"]),
        ("import modelkeep", "ours", [python, "-c", "import modelkeep"]),
        ("modelkeep.open", "ours", [python, "-c", "import modelkeep; modelkeep.open('memory://bench')"]),
        ("modelkeep --help", "ours", [command, "--help"]),
        ("import torch", "peer", [python, "-c", "import torch"]),
    ]
    contenders = [Contender(name, kind, partial(_seconds, line)) for name, kind, line in wanted]
    results = contest.hold(contenders, settings.rounds, told=settings.told)
    return [compared("start-up, whole processes", results, results[0], unit="ms", scale=1000)]


def _seconds(line: list[str]) -> float:
    started = perf_counter()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - started
