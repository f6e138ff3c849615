"""A file system that the kernel stops right behind a save: what was acknowledged is there when it is mounted again."""

from pathlib import Path

import pytest

from . import images
from .expected import Expected
from .images import FileSystem
from .mounts import mounted, need, run_program, scratch
from .verdict import problems


@pytest.mark.parametrize("file_system", [images.EXT4, images.XFS], ids=lambda one: one.name)
@pytest.mark.parametrize("cut", ["cut_with_log", "cut_without_log"])
def test_a_file_system_that_stops_behind_a_save_has_it(file_system: FileSystem, cut: str, tmp_path: Path) -> None:
    """btrfs has no such call."""
    need(file_system)
    with scratch(tmp_path / "scratch") as folder:
        image, place = folder / "image", folder / "mounted"
        file_system.format(image)
        marks: list[str] = []
        for step in range(1, 5):
            with mounted(image, file_system, place):
                marks += run_program(place / "keep", "-", cut)
            assert marks[-1] == f"saved cnn {step}"
        with mounted(image, file_system, place):
            assert problems(place / "keep", Expected.of(marks)) == []


@pytest.mark.parametrize("file_system", [images.EXT4, images.XFS], ids=lambda one: one.name)
def test_the_stop_loses_what_was_not_synced(file_system: FileSystem, tmp_path: Path) -> None:
    """Else it would prove nothing."""
    need(file_system)
    with scratch(tmp_path / "scratch") as folder:
        image, place = folder / "image", folder / "mounted"
        file_system.format(image)
        with mounted(image, file_system, place):
            marks = run_program(place / "keep", "-", "forgetful", "cut_without_log")
        with mounted(image, file_system, place):
            assert problems(place / "keep", Expected.of(marks)) != []
