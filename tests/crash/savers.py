"""Savers of a few lines, of which all but one are known to be bad: what the harness must tell apart."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from .strace import MARK

SIZE = 5 * 4096 + 100


def version(number: int) -> bytes:
    """The bytes of a version, with their digest before them."""
    body = bytes([number]) * SIZE
    return blake3(body).digest() + body


def in_place(path: Path, data: bytes) -> None:
    """What most programs do."""
    path.write_bytes(data)


def renamed(path: Path, data: bytes) -> None:
    """Atomic, and durable some day."""
    other = path.with_name("other")
    other.write_bytes(data)
    other.rename(path)


def synced(path: Path, data: bytes, sync: bool = True) -> None:
    """The file is durable, and its name is not."""
    other = path.with_name("other")
    with other.open("wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    other.rename(path)


def ranged(path: Path, data: bytes) -> None:
    """Written back early, and taken for durable."""
    import ctypes

    other = path.with_name("other")
    with other.open("wb") as file:
        file.write(data)
        file.flush()
        assert ctypes.CDLL(None, use_errno=True).sync_file_range(file.fileno(), 0, 0, 7) == 0
    other.rename(path)
    _sync_folder(path.parent)


def unsynced_but_named(path: Path, data: bytes) -> None:
    """The name is durable, and the file is not."""
    synced(path, data, sync=False)
    _sync_folder(path.parent)


def durable(path: Path, data: bytes) -> None:
    """File, name, folder: as it should be."""
    synced(path, data)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


SAVERS = {one.__name__: one for one in (in_place, renamed, synced, ranged, unsynced_but_named, durable)}


def look(folder: Path) -> str:
    """What is found: ``old``, ``new``, or why nothing is."""
    try:
        data = (folder / "saved").read_bytes()
    except OSError as error:
        return f"lost: {error}"
    return {version(1): "old", version(2): "new"}.get(data, "lost: its digest is another")


def judge(found: str, said: Sequence[str]) -> list[str]:
    """The old version will do until the new one is acknowledged."""
    if found == "old" and "ack" in said:
        return ["gone: the new version was acknowledged"]
    return [found] if found not in ("old", "new") else []


def mark(text: str) -> None:
    """Say something to whoever traces this process."""
    with suppress(FileNotFoundError):
        os.close(os.open(f"{MARK}{text}", os.O_RDONLY))


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    mark("begin")
    SAVERS[name](Path(folder) / "saved", version(2))
    mark("ack")
