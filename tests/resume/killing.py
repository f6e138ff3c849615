"""Programs that train in a keep and print a digest last, killed at random moments and compared."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Program:
    """``python SCRIPT BEFORE KEEP AFTER``, which trains one run."""

    script: Path
    run: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def start(self, keep: Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(self.script), *self.before, str(keep), *self.after], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        )  # fmt: skip

    def to_its_end(self, keep: Path) -> str:
        """Run it; returns the last line that it prints."""
        process = self.start(keep)
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        return out.splitlines()[-1]

    def newest(self, keep: Path) -> int:
        """The number of the newest checkpoint, whose name counts down; retention removes older ones."""
        folder = keep / "runs" / self.run / "checkpoints"
        return max((9_999_999_999 - int(path.stem) for path in folder.glob("*.json")), default=0)

    def stopped(self, keep: Path, number: int, checkpoints: int) -> bool:
        """Start it, send a signal some moments after so many more checkpoints; False where it had ended by then."""
        process = self.start(keep)
        wanted = self.newest(keep) + checkpoints
        while self.newest(keep) < wanted and process.poll() is None:
            time.sleep(0.001)
        time.sleep(random.random() * 0.02)
        process.send_signal(number)
        process.communicate(timeout=300)
        assert process.returncode in (0, 75 if number == signal.SIGTERM else -number)
        return process.returncode != 0

    def kill_and_compare(self, folder: Path, kills: int, *, last: int) -> None:
        """SIGKILL it so many times; its bits are those of one left alone, which makes ``last`` checkpoints or more."""
        whole = self.to_its_end(folder / "whole")
        done = number = 0
        while done < kills:
            keep = folder / "killed" / str(number)
            for checkpoints in random.Random(number).sample(range(2, 6), 4):
                if done < kills and self.newest(keep) + checkpoints < last:
                    done += self.stopped(keep, signal.SIGKILL, checkpoints)
            assert self.to_its_end(keep).split(": ")[-1] == whole.split(": ")[-1]
            number += 1
