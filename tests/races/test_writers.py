"""Thirty-two writers in one keep, in real processes, while collectors run: nothing is lost, nothing wrong is loaded."""

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import modelkeep
from modelkeep.errors import RunLocked

from ..object_stores import Proxy
from ..simulation.facts import is_tree, tree
from .writers import LAST

ROOT = Path(__file__).parents[2]
PROCESSES = 4
WRITERS = 32
FEWER = 16
DAY = 24 * 3600.0


@contextmanager
def writing(
    kind: str, folder: Path, commits: int, place: str = "", writers: int = WRITERS
) -> Iterator[list[subprocess.Popen[str]]]:
    """The writers are at work in the block; at its end they have ended, all of them well."""
    (folder / "ledgers").mkdir()
    each = writers // PROCESSES
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.races.writers",
        kind,
        place or str(folder / "keep"),
        str(folder / "ledgers"),
    ]
    children = [
        subprocess.Popen(
            [*command, *map(str, (first, each, writers, commits))],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        for first in range(0, writers, each)
    ]
    try:
        yield children
        told = [child.communicate()[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
    assert [child.returncode for child in children] == [0] * PROCESSES, "\n".join(told)[-6000:]
    assert sum(int(number) for text in told for number in re.findall(r"reused (\d+)", text)) > 0


def acknowledged(folder: Path) -> list[tuple[str, int]]:
    """What every writer was told is durable, in its order."""
    lines = [line.split() for path in sorted((folder / "ledgers").iterdir()) for line in path.read_text().splitlines()]
    return [(name, int(serial)) for name, serial in lines]


def race_runs(folder: Path, commits: int, tried: Callable[..., None]) -> None:
    """Retention of each run deletes shards that forks reuse; a collection of the whole keep is refused meanwhile."""
    keep = modelkeep.open(folder / "keep")
    refused = 0
    with writing("runs", folder, commits) as children:
        while any(child.poll() is None for child in children):
            try:
                keep.gc(dry_run=False)
            except RunLocked:
                refused += 1
            time.sleep(0.2)
    newest = newest_acknowledged(folder)
    commits_done = sum(map(len, newest.values()))
    tried(commits_done, f"commits by {WRITERS} writers of one keep, with forks and retention", f"{len(newest)} runs")
    assert commits_done >= WRITERS * commits
    check_runs(modelkeep.open(folder / "keep"), newest)
    assert refused > 0


def newest_acknowledged(folder: Path) -> dict[str, list[int]]:
    """The steps that every run was told are durable, in its order."""
    newest: dict[str, list[int]] = {}
    for name, serial in acknowledged(folder):
        newest.setdefault(name, []).append(serial)
    return newest


def check_runs(keep: modelkeep.Keep, newest: dict[str, list[int]]) -> None:
    """Nothing acknowledged is gone, and every checkpoint that is there is whole."""
    for name, serials in newest.items():
        live = keep.store.run(name).checkpoints()
        assert [one.step for one in live[:LAST]] == serials[::-1][:LAST], name
        for one in live:
            assert is_tree(keep.load_state(keep.store.snapshot(one.snapshot_id)), one.step), (name, one.step)
    assert keep.verify().damages == ()


def race_in_a_bucket(proxy: Proxy, place: str, folder: Path, commits: int, tried: Callable[..., None]) -> None:
    """Forks and retention beside a collector, through a server that loses one answer in 25 and one request in 25."""
    keep = modelkeep.open(place)
    chance = random.Random(5)
    proxy.rule = lambda method, path: chance.choices(["", "lost", "cut"], [23, 1, 1])[0]
    with writing("runs", folder, commits, place, FEWER) as children:
        while any(child.poll() is None for child in children):
            keep.gc(dry_run=False)
            time.sleep(0.2)
    proxy.rule = lambda method, path: ""
    newest = newest_acknowledged(folder)
    commits_done = sum(map(len, newest.values()))
    tried(commits_done, f"commits by {FEWER} writers of a bucket with faults", f"{len(newest)} runs")
    assert commits_done >= FEWER * commits
    check_runs(modelkeep.open(place), newest)


def race_states(folder: Path, commits: int, garbage: int, seconds: float, tried: Callable[..., None]) -> None:
    """A collection takes old snapshots, one after the other, whose pieces the writers reuse at that moment."""
    keep = modelkeep.open(folder / "keep")
    for number in range(garbage):
        keep.store.save(tree(number), meta={"kind": "checkpoint", "run": "gone", "number": number})
    _grow_old(folder / "keep", seconds)
    removed = 0
    with writing("states", folder, commits) as children:
        while any(child.poll() is None for child in children):
            removed += len(keep.gc(dry_run=False).removed)
    saved = acknowledged(folder)
    tried(len(saved), f"states by {WRITERS} writers beside a collector", f"{removed} objects collected")
    assert len(saved) == WRITERS * commits
    keep = modelkeep.open(folder / "keep")
    for snapshot_id, serial in saved:
        assert is_tree(keep.load_state(snapshot_id), serial), serial
    assert keep.verify().damages == ()
    assert removed > 0


def _grow_old(keep: Path, seconds: float) -> None:
    """Date what a collection may take so that it becomes a day old one after the other, in so many seconds."""
    now, paths = time.time(), [*keep.glob("snapshots/*/*.json"), *keep.glob("shards/*/*")]
    for path in paths:
        then = now - DAY + random.uniform(0.5, seconds)
        os.utime(path, (then, then))


def test_32_writers_with_forks_and_retention_lose_nothing(tmp_path: Path, tried: Callable[..., None]) -> None:
    race_runs(tmp_path, commits=8, tried=tried)


def test_32_writers_that_reuse_what_is_being_collected_lose_nothing(tmp_path: Path, tried: Callable[..., None]) -> None:
    race_states(tmp_path, commits=8, garbage=300, seconds=6.0, tried=tried)


def test_16_writers_of_a_bucket_lose_nothing_through_lost_answers(
    proxy: Proxy, through: str, tmp_path: Path, tried: Callable[..., None]
) -> None:
    race_in_a_bucket(proxy, through, tmp_path, commits=4, tried=tried)


@pytest.mark.torture
@pytest.mark.timeout(14400)
def test_16_writers_of_100_commits_to_a_bucket_lose_nothing_through_lost_answers(
    proxy: Proxy, through: str, tmp_path: Path, tried: Callable[..., None]
) -> None:
    race_in_a_bucket(proxy, through, tmp_path, commits=100, tried=tried)


@pytest.mark.torture
@pytest.mark.timeout(14400)
def test_32_writers_of_1_000_commits_with_forks_and_retention_lose_nothing(
    tmp_path: Path, tried: Callable[..., None]
) -> None:
    race_runs(tmp_path, commits=1000, tried=tried)


@pytest.mark.torture
@pytest.mark.timeout(14400)
def test_32_writers_of_1_000_states_that_reuse_what_is_being_collected_lose_nothing(
    tmp_path: Path, tried: Callable[..., None]
) -> None:
    race_states(tmp_path, commits=1000, garbage=3000, seconds=300.0, tried=tried)
