"""A program is run, watched, and replayed: the proof that the trace has everything that it did."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .calls import HANDLERS
from .disk import Tree, differences
from .operations import Trace
from .recorder import Recorder
from .strace import parse, trace


@dataclass(frozen=True, slots=True)
class Recording:
    """What a folder held before a program ran, and what the program did to it."""

    before: Tree
    """Durable: whoever made it has finished long ago."""
    trace: Trace
    after: Tree


def record(command: Sequence[str], root: Path, log: Path, *, seconds: float = 300, **variables: str) -> Recording:
    """Run a program and record what it does to ``root``.

    Raises:
        Unmodelled: it did something that no crash model knows.
        AssertionError: it failed, or its operations, replayed, do not give what lies on the disk byte for byte.
    """
    root = root.resolve()
    before = Tree.read(root)
    paths = [str(Path(__file__).parents[2]), *(entry for entry in sys.path if entry)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    trace(command, log, cwd=log.parent, env=environment, seconds=seconds)
    recorder = Recorder(root, log.parent, before.copy())
    found = recorder.trace(parse(log), HANDLERS)
    differing = differences(recorder.tree, root)
    assert not differing, "the replay of a trace is not what lies on the disk:\n" + "\n".join(differing[:20])
    return Recording(before, found, recorder.tree)
