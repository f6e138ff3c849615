"""The traced real implementation issues just the calls that the twin assumes, and makes none that nobody sees."""

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from modelkeep.store import Retain

from .disk import Abilities, Disk
from .facts import tree
from .installed import Proportions, installed
from .kernel import Kernel, RealDisk
from .places import KernelPlace

_WATCHED = {"open": "open", "os.mkdir": "mkdir", "os.remove": "unlink", "os.link": "link", "os.scandir": "scandir"}
_SEEN: list[tuple[str, str]] = []
_ROOT: list[str] = []


def _look(event: str, arguments: Any) -> None:
    """An audit hook cannot be taken away again, so there is one, which looks when it is told where."""
    if not _ROOT or event not in _WATCHED:
        return
    path = os.fspath(arguments[1 if event == "os.link" else 0]) if not isinstance(arguments[0], int) else ""
    if isinstance(path, str) and path.startswith(_ROOT[0]):
        _SEEN.append((_WATCHED[event], path))


@pytest.fixture(scope="module")
def audit() -> Any:
    sys.addaudithook(_look)

    @contextmanager
    def watching(root: str) -> Iterator[list[tuple[str, str]]]:
        _SEEN.clear()
        _ROOT[:] = [root]
        try:
            yield _SEEN
        finally:
            _ROOT.clear()

    return watching


def use_everything(place: KernelPlace) -> None:
    """Each verb of a keep once or more, by two processes."""
    keep = place.open()
    state = keep.save_state(tree(1), meta={"serial": 1})
    keep.save_state(tree(1), meta={"serial": 1})
    run = keep.run("cnn", capture=False)
    run.retain = Retain(last=1)
    for serial in range(2, 7):
        run.log({"loss": 0.5}, step=serial, epoch=0)
        run.save(tree(serial), step=serial, epoch=0, metrics={"loss": 0.5}, wait=serial % 2 == 0)
    run.finish({"epochs": 1})
    run.close()
    with place.being(place.spawn("second")):
        keep = place.open()
        with keep.run("fork", capture=False, fork="run:cnn@last") as fork:
            fork.save(tree(7), step=7, epoch=0)
        with keep.run("cnn", capture=False) as again:
            again.save(tree(8), step=8, epoch=0)
        keep.load_state(state.id)
        keep.load_state("run:cnn@best:loss", select="head/**")
        assert keep.verify().ok
        place.kernel.clock += 1e6
        keep.gc(dry_run=True)
        keep.gc(dry_run=False)


def record(kernel: Kernel, url: str, proportions: Proportions) -> list[tuple[str, str, str]]:
    kernel.log = []
    place = KernelPlace(kernel, url, slots=2)
    with installed(kernel, random.Random(7), proportions):
        use_everything(place)
    root = url.rpartition("/")[0]
    return [(process, verb, path.removeprefix(root)) for process, verb, path in kernel.log]


@pytest.mark.parametrize(
    "proportions",
    [Proportions(), Proportions(large=2048, buffer=8192), Proportions(worth_threads=100, shard_entries=2)],
    ids=["small", "large", "many shards"],
)
def test_the_real_files_get_the_calls_that_the_twin_got(tmp_path: Path, audit: Any, proportions: Proportions) -> None:
    twin = Kernel(RealDisk())
    twin.disk = Disk(twin.now, Abilities(direct=_has_direct(tmp_path)))
    expected = record(twin, "/twin/keep", proportions)
    real = Kernel(RealDisk(), clock=time.time())
    with audit(str(tmp_path / "keep")) as seen:
        found = record(real, str(tmp_path / "keep"), proportions)
    assert _ordered(found) == _ordered(expected)
    assert {"open", "pwrite", "fsync", "link", "unlink", "mkdir", "scandir", "flock"} < {verb for _, verb, _ in found}
    root = str(tmp_path)
    recorded = Counter((verb, root + path) for _, verb, path in found if verb in _WATCHED.values())
    recorded = +Counter({one: count for one, count in recorded.items() if one[1].startswith(f"{root}/keep")})
    assert Counter(seen) == recorded


def _ordered(log: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """`clean` walks folders in the order in which the disk lists them, which is nobody's promise: sort such walks."""
    groups = groupby(log, key=lambda call: call[1] == "scandir")
    return [call for walk, calls in groups for call in (sorted(calls) if walk else calls)]


def _has_direct(folder: Path) -> bool:
    path = folder / "direct"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True
