"""``modelkeep doctor`` tells good places from bad ones, leaves nothing behind and never makes a keep."""

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import modelkeep as mk
from modelkeep.backend import LocalBackend, mount_of, open_backend
from modelkeep.cli.main import app
from modelkeep.errors import StorageError
from modelkeep.store import doctor
from modelkeep.store.measures import Diagnosis

from ..disks import small_file_system

SMALL = 8 << 20


@pytest.fixture(autouse=True)
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.examine
    monkeypatch.setattr(doctor, "examine", lambda backend: real(backend, probe_bytes=SMALL))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def verdicts(found: Diagnosis) -> dict[str, str]:
    return {check.name: check.verdict for check in found.checks}


def test_a_keep_is_examined_and_left_as_it_was(tmp_path: Path) -> None:
    mk.open(tmp_path / "keep").save_state({"a": 1})
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    done = run(str(tmp_path / "keep"), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["ok"] is True
    assert {check["name"] for check in found["checks"]} == {"file system", "create if absent", "locks", "fsync"}
    assert found["speeds"]["write"] > 0
    assert found["cost"]["disk_bytes"] == 4 << 30
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_where_there_is_no_keep_none_is_made(tmp_path: Path) -> None:
    done = run("--keep", str(tmp_path / "a" / "keep"))
    assert done.exit_code == 0, done.output
    assert "create if absent" in done.output
    assert list(tmp_path.iterdir()) == []


def test_memory_is_no_place_for_what_must_survive(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", "64m") as folder:
        done = run(str(folder))
    assert done.exit_code == 7, done.output
    assert "tmpfs is memory" in done.output
    assert "advice: name a folder on a disk" in done.output


def test_a_policy_that_the_disk_cannot_follow_is_told_with_one_that_it_can(tmp_path: Path) -> None:
    done = run(str(tmp_path), "--size", "900T", "--every", "1")
    assert "mk.every(seconds=" in done.output
    assert "mk.retain(last=1)" in done.output


def test_a_size_that_is_none_is_refused(tmp_path: Path) -> None:
    done = run(str(tmp_path), "--size", "many")
    assert done.exit_code == 2
    assert "500M or 2G" in done.output


def test_a_swallowed_fsync_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libeatmydata.so")
    found = doctor.examine(LocalBackend(tmp_path / "keep"))
    assert verdicts(found)["fsync"] == "broken"
    assert not found.ok


def test_a_place_where_nothing_can_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", "64m") as folder:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(StorageError, match="read-only"):
            doctor.examine(LocalBackend(folder))


TABLE = r"""
29 1 8:1 / / rw,relatime - ext4 /dev/a rw,data=writeback
30 29 0:5 / /data rw - nfs4 host:/x rw,soft
31 30 0:6 / /data/fast\040disk rw - xfs /dev/b rw,nobarrier
32 29 0:7 / /mnt/drive rw - fuse.drive drive rw
"""


@pytest.mark.parametrize(
    ("folder", "kind", "remote", "danger"),
    [
        ("/data/keep", "nfs4", True, ""),
        ("/data/fast disk/keep", "xfs", False, "nobarrier"),
        ("/database", "ext4", False, "data=writeback"),
        ("/mnt/drive", "fuse.drive", True, ""),
    ],
)
def test_the_mount_of_a_folder_is_the_longest_above_it(folder: str, kind: str, remote: bool, danger: str) -> None:
    mount = mount_of(folder, TABLE)
    assert mount is not None
    assert (mount.kind, mount.is_remote) == (kind, remote)
    assert danger in " ".join(mount.dangers)
    assert bool(mount.dangers) == bool(danger)


def test_an_object_store_is_examined_and_left_as_it_was(place: str) -> None:
    done = run(place, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["ok"] is True
    assert {check["name"] for check in found["checks"]} == {"create if absent", "listing", "locks", "requests"}
    assert found["free_bytes"] is None
    assert found["speeds"]["read"] > 0
    assert [one.key for one in open_backend(place).list("")] == []
    shown = run(place)
    assert "the older of two processes" in shown.output


def test_a_keep_in_memory_has_nothing_to_look_at() -> None:
    mk.open("memory://doctor")
    done = run("memory://doctor")
    assert done.exit_code == 7, done.output
    assert "is in memory" in done.output
