"""Mounts that a test makes, each taken away again whatever happens."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .images import FileSystem
from .log import NAME

ROOT = Path(__file__).parents[2]
_PATIENCE = 20.0
"""Seconds until a mount must stand, or may be busy."""


class Unmountable(Exception):
    """The kernel refuses an image."""


def need(file_system: FileSystem) -> None:
    """Skip the test where such a file system cannot be made and mounted."""
    need_fuse()
    if not Path("/dev/loop-control").exists():
        pytest.skip("there is no /dev/loop-control")
    if shutil.which(file_system.make[0]) is None:
        pytest.skip(f"{file_system.make[0]} is not installed")
    if file_system.name not in Path("/proc/filesystems").read_text(encoding="utf-8").split():
        pytest.skip(f"this kernel has no {file_system.name}")


def need_fuse() -> None:
    """Skip the test where a FUSE file system cannot be mounted."""
    if os.geteuid() != 0:
        pytest.skip("mounting file systems needs root")
    if not Path("/dev/fuse").exists():
        pytest.skip("there is no /dev/fuse")
    if importlib.util.find_spec("mfusepy") is None or shutil.which("fusermount3") is None:
        pytest.skip("mfusepy and fuse3 are not both installed")


@contextmanager
def mounted(image: Path, file_system: FileSystem, folder: Path) -> Iterator[Path]:
    """Mount the file system in a file through a loop device, which ends with the mount.

    Raises:
        Unmountable: the kernel refuses it.
    """
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", file_system.name, "-o", f"loop,{file_system.options}", str(image), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unmountable(done.stderr.strip())
    try:
        yield folder
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Take a mount away; one that stays busy is detached, and an error."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        done = subprocess.run(["umount", str(folder)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)
            raise RuntimeError(f"{folder} stays busy: {done.stderr.strip()}")
        time.sleep(0.05)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder in memory: an image that is synced to a disk would take the disk's time, thousands of times.

    What is mounted in it goes with it; should this process be killed, a watcher that then meets the end of its input
    takes all of it away.
    """
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
    clear = 'cat > /dev/null; if mountpoint -q "$0"; then umount --recursive --lazy "$0"; fi'
    with subprocess.Popen(["sh", "-c", clear, str(folder)], stdin=subprocess.PIPE, start_new_session=True):
        try:
            yield folder
        finally:
            unmount(folder)


@contextmanager
def recording(image: Path, log: Path, folder: Path) -> Iterator[Path]:
    """Serve an image through `recorder`; yields the file for the loop device. Its folder takes the marks."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.block.recorder", str(folder), str(image), str(log)]
    with serving(command, folder):
        yield folder / NAME


def run_program(keep: Path, marks: str, *parts: str) -> list[str]:
    """Run parts of `program` in a process of its own; returns what it printed."""
    command = [sys.executable, "-m", "tests.block.program", str(keep), marks, *parts]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextmanager
def serving(command: list[str], folder: Path, **streams: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a FUSE server as long as the block lasts."""
    server = subprocess.Popen(command, cwd=ROOT, env=_environment(), **streams)
    try:
        _wait_for_mount(server, folder)
        yield server
    finally:
        try:
            if os.path.ismount(folder):
                unmount(folder)
        finally:
            _end(server)


def _end(server: "subprocess.Popen[bytes]") -> None:
    """Wait for a server whose mount was taken away; one that does not end is killed."""
    with suppress(subprocess.TimeoutExpired):
        server.wait(_PATIENCE)
    if server.poll() is None:
        server.kill()
        server.wait()


def _wait_for_mount(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not os.path.ismount(folder):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the FUSE server for {folder} did not start (status {server.poll()})")
        time.sleep(0.02)
