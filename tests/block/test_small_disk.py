"""A disk with less room than is allocated at a time: what is not needed is given back."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelkeep as mk
from modelkeep.backend import syscalls
from modelkeep.errors import StorageError
from modelkeep.state import differences

from . import images
from .images import FileSystem
from .mounts import mounted, need, scratch

LARGE = {"base": np.zeros(10), "large": np.random.default_rng(1).integers(0, 256, 9 << 20, "u1")}


@pytest.fixture(params=[images.EXT4, images.XFS, images.BTRFS], ids=lambda one: one.name)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """ext4 leaves allocated what there was, when there is not enough; and the file is as long then."""
    file_system: FileSystem = replace(request.param, megabytes=96 if request.param is images.EXT4 else 320)
    need(file_system)
    with scratch(tmp_path / "scratch") as folder:
        image = folder / "image"
        file_system.format(image)
        with mounted(image, file_system, folder / "mounted") as place:
            yield place


def save(place: Path, step: int, tree: Any) -> None:
    with mk.open(place / "keep").run("cnn", capture=False) as run:
        run.save(tree, step=step, epoch=step, wait=True)


def test_a_save_of_unknown_length_takes_what_it_needs(disk: Path) -> None:
    save(disk, 1, {"base": LARGE["base"]})
    save(disk, 2, LARGE)
    assert differences(LARGE, mk.open(disk / "keep").load_state("run:cnn@last")) == []
    shards = [path.stat() for path in disk.glob("keep/shards/*/*")]
    assert sum(one.st_blocks * 512 for one in shards) < 10 << 20


def test_what_is_acknowledged_loads_when_room_came_free_meanwhile(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shard had got all room that there was; what was freed then let its record be written."""
    other = disk / "other"
    other.write_bytes(bytes(5 << 20))
    real = syscalls.protect

    def protect(descriptor: int) -> None:
        real(descriptor)
        if os.fstat(descriptor).st_size > LARGE["large"].nbytes:
            other.unlink(missing_ok=True)

    save(disk, 1, {"base": LARGE["base"]})
    monkeypatch.setattr(syscalls, "protect", protect)
    saved = 1
    with suppress(StorageError):
        save(disk, 2, LARGE)
        saved = 2
    keep = mk.open(disk / "keep")
    assert keep.snapshot("run:cnn@last").meta["step"] == saved
    assert keep.verify().damages == ()
