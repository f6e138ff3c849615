"""What the tests mount does not outlive them."""

import os
import subprocess
import sys
import time
from pathlib import Path

from . import images
from .mounts import ROOT, need

HOLDER = """
import sys, time
from pathlib import Path
from tests.block import images
from tests.block.mounts import mounted, recording, scratch

with scratch(Path(sys.argv[1])) as folder:
    images.EXT4.format(folder / "image")
    with recording(folder / "image", folder / "log", folder / "recorded") as disk:
        with mounted(disk, images.EXT4, folder / "mounted"):
            print("mounted", flush=True)
            time.sleep(600)
"""


def mounts_in(folder: Path) -> list[str]:
    return [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]


def loops_in(folder: Path) -> list[Path]:
    backing = Path("/sys/block").glob("loop*/loop/backing_file")
    return [one for one in backing if str(folder) in one.read_text()]


def test_nothing_stays_mounted_when_a_test_is_killed(tmp_path: Path) -> None:
    need(images.EXT4)
    folder = tmp_path / "scratch"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mounted\n"
        assert len(mounts_in(folder)) == 3
        assert len(loops_in(folder)) == 1
        holder.kill()
    deadline = time.monotonic() + 60
    while (mounts_in(folder) or loops_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mounts_in(folder) == []
    assert loops_in(folder) == []
