"""A power cut at any moment of a training, on the kernel's own file systems: nothing that was acknowledged is lost."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from . import images
from .crashes import Crash, sample
from .expected import Expected
from .images import Builder, FileSystem, copy
from .log import Event, Mark, read_log
from .mounts import Unmountable, mounted, need, recording, run_program, scratch
from .program import PARTS
from .verdict import problems

each_file_system = pytest.mark.parametrize("file_system", images.ALL, ids=lambda one: one.name)


@dataclass(frozen=True, slots=True)
class Recording:
    """A disk that a program has used."""

    base: Path
    """The image before it began."""
    final: Path
    log: Sequence[Event]


@dataclass(slots=True)
class Tally:
    """What became of the images."""

    kinds: Counter[str] = field(default_factory=Counter)
    unmountable: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def crashes(self) -> int:
        """How many images there were."""
        return self.kinds.total()

    @property
    def bad(self) -> list[str]:
        """What no crash may come to; the first few, each of which can be built again."""
        return [*self.unmountable[:5], *self.wrong[:5]]


def record(file_system: FileSystem, folder: Path, parts: Sequence[str]) -> Recording:
    """Run the parts of the program, each in a process of its own, on a new file system that is recorded."""
    base, final, log = folder / "base", folder / "final", folder / "log"
    file_system.format(base)
    copy(base, final)
    with ExitStack() as stack:
        disk = stack.enter_context(recording(final, log, folder / "recorded"))
        place = stack.enter_context(mounted(disk, file_system, folder / "mounted"))
        for part in parts:
            run_program(place / "keep", str(disk.parent), *part.split())
    return Recording(base, final, read_log(log))


def check(recorded: Recording, file_system: FileSystem, folder: Path, crashes: Sequence[Crash]) -> Tally:
    """Mount the image of each crash, let the kernel replay its journal, and look at the keep."""
    tally = Tally()
    builder = Builder(recorded.base, recorded.log, folder)
    for crash in crashes:
        where = f"{crash.kind} between {crash.flush} and {crash.cut}: {crash.parts[:8]}"
        tally.kinds[crash.kind] += 1
        try:
            with builder.build(crash) as image, mounted(image, file_system, folder / "crashed") as place:
                expected = Expected.of(crash.marks(recorded.log))
                tally.wrong += [f"{where}: {problem}" for problem in problems(place / "keep", expected)]
        except Unmountable as error:
            tally.unmountable.append(f"{where}: {error}")
    return tally


def crash_everywhere(file_system: FileSystem, tmp_path: Path, count: int, parts: Sequence[str] = PARTS) -> Tally:
    need(file_system)
    with scratch(tmp_path / "scratch") as folder:
        recorded = record(file_system, folder, parts)
        crashes = sample(recorded.log, count, seed=1, sector=file_system.sector)
        return check(recorded, file_system, folder, crashes)


@each_file_system
def test_no_power_cut_loses_what_was_acknowledged(file_system: FileSystem, tmp_path: Path) -> None:
    tally = crash_everywhere(file_system, tmp_path, 40)
    assert tally.crashes == 40
    assert tally.bad == []


@pytest.mark.torture
@pytest.mark.timeout(3600)
@each_file_system
def test_no_power_cut_of_a_thousand_loses_what_was_acknowledged(
    file_system: FileSystem, tmp_path: Path, tried: Callable[..., None]
) -> None:
    tally = crash_everywhere(file_system, tmp_path, 1200)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(tally.kinds.items()))
    tried(tally.crashes, f"images of {file_system.name} after a power cut", kinds)
    assert tally.crashes == 1200
    assert tally.bad == []


@each_file_system
def test_a_program_that_forgets_to_sync_is_found_out(file_system: FileSystem, tmp_path: Path) -> None:
    """Else the crashes would prove nothing."""
    tally = crash_everywhere(file_system, tmp_path, 40, ["forgetful first later"])
    assert any("acknowledged" in problem for problem in tally.wrong)


def test_a_log_replays_to_the_disk_that_was_recorded(tmp_path: Path) -> None:
    """What the log has not seen would be in no image."""
    need(images.EXT4)
    with scratch(tmp_path / "scratch") as folder:
        recorded = record(images.EXT4, folder, ["first"])
        replayed = Builder(recorded.base, recorded.log, folder).advance(len(recorded.log))
        assert replayed.read_bytes() == recorded.final.read_bytes()
        marks = [event.text for event in recorded.log if isinstance(event, Mark)]
        assert marks == ["saving cnn 1", "saved cnn 1"]
