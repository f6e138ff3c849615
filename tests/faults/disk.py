"""A disk whose calls fail as planned, for the tests that use it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..block.mounts import scratch, serving
from .plan import Plan, plan_to_json


@dataclass(frozen=True, slots=True)
class Disk:
    """``folder`` is where calls fail; ``behind`` is the same place, where none does."""

    folder: Path
    behind: Path
    _server: "subprocess.Popen[bytes]"

    @contextmanager
    def failing(self, plan: Plan | None) -> Iterator[dict[str, int]]:
        """Count calls, and make them fail as planned, as long as the block lasts.

        Yields: how many there were of each kind, filled when the block has ended; ``failed`` of them failed.
        """
        found: dict[str, int] = {}
        self._replan(plan)
        try:
            yield found
        finally:
            answer = self._replan(None)
            found.update(answer["counts"], failed=answer["failed"])

    def _replan(self, plan: Plan | None) -> dict[str, dict[str, int]]:
        asked, answered = self._server.stdin, self._server.stdout
        assert asked is not None, "opened as a pipe"
        assert answered is not None, "opened as a pipe"
        asked.write(plan_to_json(plan).encode() + b"\n")
        asked.flush()
        return json.loads(answered.readline())


@contextmanager
def faulty_disk(place: Path) -> Iterator[Disk]:
    """Mount such a disk below ``place``."""
    folder = place / "failing"
    folder.mkdir()
    with scratch(place / "behind") as behind, ExitStack() as pipes:
        command = [sys.executable, "-m", "tests.faults.server", str(folder), str(behind)]
        with serving(command, folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            pipes.push(server)  # closes its input when it has ended, since it takes that for our death
            yield Disk(folder, behind, server)
