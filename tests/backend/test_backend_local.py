"""A keep in a folder keeps every promise of a backend, and those that only a disk can break."""

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from modelkeep.backend import Backend, LocalBackend, open_backend
from modelkeep.errors import Damaged, NotFound, StorageError, UsageError
from modelkeep.testing.backend_suite import BackendSuite


class TestLocal(BackendSuite):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return LocalBackend(tmp_path / "keep")

    def reopen(self, backend: Backend) -> Backend:
        return open_backend(backend.url)


@pytest.fixture
def place(tmp_path: Path) -> LocalBackend:
    return LocalBackend(tmp_path / "keep")


# Opening


def test_paths_and_file_urls_name_the_same_place(tmp_path: Path) -> None:
    folder = tmp_path / "a keep of ünusual name%20"
    place = open_backend(folder)
    place.create("a", b"x")
    assert open_backend(place.url).read("a") == b"x"
    assert place.url.startswith("file:///")


def test_a_place_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="keep"):
        open_backend(tmp_path / "keep", create=False)
    assert not (tmp_path / "keep").exists()


def test_a_file_where_the_keep_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine")
    with pytest.raises(StorageError, match=r"keep is a file"):
        open_backend(tmp_path / "keep")
    with pytest.raises(StorageError, match=r"keep"):
        open_backend(tmp_path / "keep" / "below")
    assert (tmp_path / "keep").read_text() == "mine"


def test_an_unknown_kind_of_url_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="memory://"):
        open_backend("ftp://host/keep")


def test_a_file_url_with_two_slashes_too_few_is_refused_and_does_not_mean_the_working_folder() -> None:
    with pytest.raises(UsageError, match=r"machine keep; .*file:///PATH"):
        open_backend("file://keep")
    with pytest.raises(UsageError, match="machine elsewhere"):
        open_backend("file://elsewhere/tmp/keep")


def test_two_names_of_one_folder_have_one_lock(tmp_path: Path) -> None:
    place = LocalBackend(tmp_path / "keep")
    (tmp_path / "alias").symlink_to(tmp_path / "keep")
    with place.lock("runs/a/lock"), LocalBackend(tmp_path / "alias").lock("runs/a/lock"):
        place.create("a", b"x")


# What lies on the disk


def test_objects_are_read_only_files_without_temporary_names_beside_them(place: LocalBackend, tmp_path: Path) -> None:
    place.create("a/b", b"x")
    assert os.listdir(tmp_path / "keep" / "a") == ["b"]
    assert stat.S_IMODE((tmp_path / "keep" / "a" / "b").stat().st_mode) == 0o444


def test_a_file_where_a_folder_should_be_is_named(place: LocalBackend, tmp_path: Path) -> None:
    place.create("a", b"mine")
    with pytest.raises(StorageError, match="keep/a"):
        place.create("a/b", b"x")
    with pytest.raises((StorageError, NotFound), match="a/b"):
        place.read("a/b")
    assert place.read("a") == b"mine"


def test_a_folder_where_an_object_should_be_is_damage(place: LocalBackend, tmp_path: Path) -> None:
    (tmp_path / "keep" / "a").mkdir()
    with pytest.raises(Damaged, match="a is not a regular file"):
        place.read("a")
    with pytest.raises(Damaged):
        place.size("a")


@pytest.mark.parametrize("target", ["secret", "/etc/hostname", "missing"])
def test_a_planted_symlink_is_not_followed(place: LocalBackend, tmp_path: Path, target: str) -> None:
    (tmp_path / "keep" / "secret").write_text("secret")
    (tmp_path / "keep" / "object").symlink_to(target)
    with pytest.raises(Damaged, match="object") as caught:
        place.read("object")
    assert caught.value.key == "object"
    with pytest.raises(Damaged, match="object"):
        place.size("object")
    assert "object" in [entry.key for entry in place.list("")]
    place.delete("object")
    assert (tmp_path / "keep" / "secret").read_text() == "secret"


def test_a_planted_symlink_is_not_written_through(place: LocalBackend, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "keep" / "object").symlink_to(outside)
    with pytest.raises(Exception, match="object"):
        place.create("object", b"x")
    assert outside.read_text() == "mine"


def test_a_planted_symlink_is_not_taken_as_a_lock(place: LocalBackend, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "keep" / "lock").symlink_to(outside)
    with pytest.raises(StorageError, match="lock"), place.lock("lock"):
        pass
    assert outside.read_text() == "mine"


def test_a_planted_pipe_is_damage_and_does_not_block(place: LocalBackend, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keep" / "object")
    with pytest.raises(Damaged, match="object"):
        place.read("object")
    with pytest.raises(Damaged, match="object"):
        place.read_into("object", 0, memoryview(bytearray(1)))
    with pytest.raises(StorageError, match="object"), place.lock("object"):
        pass
    with pytest.raises(Exception, match=r"object is in .* already"):
        place.create("object", b"x")


@pytest.mark.parametrize("key", ["runs/a/object", "runs/object"])
def test_a_planted_folder_that_is_a_symlink_is_neither_read_nor_written_through(
    place: LocalBackend, tmp_path: Path, key: str
) -> None:
    outside = tmp_path / "outside"
    LocalBackend(outside).create("a/object", b"mine")
    LocalBackend(outside).create("object", b"mine")
    (tmp_path / "keep" / "runs").symlink_to(outside)
    for verb in (
        lambda: place.read(key),
        lambda: place.size(key),
        lambda: place.create(f"{key}-new", b"x"),
        lambda: place.delete(key),
        lambda: place.lock(f"{key}-lock").__enter__(),
    ):
        with pytest.raises(Damaged, match=rf"{key}.*keep/runs is a symbolic link"):
            verb()
    assert list(place.list("runs")) == []
    assert list(place.folders("runs")) == []
    assert list(place.folders("")) == []
    assert place.clean("runs", place.now() + 3600) == 0
    assert [entry.key for entry in place.list("")] == ["runs"]
    assert sorted(entry.key for entry in LocalBackend(outside).list("")) == ["a/object", "object"]


# Durability, as far as calls tell it


def test_the_bytes_are_synced_before_the_name_and_the_name_before_the_return(
    place: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _record_calls(monkeypatch)
    place.create("a/b/c", b"x")
    order = [name for name, _ in calls]
    published = order.index("link")
    assert "fsync file" in order[:published]
    after = calls[published:]
    assert ("fsync folder", "b") in after
    before = calls[:published]
    assert ("fsync folder", "a") in before  # the new folder b is durable in a, and a in the keep
    assert ("fsync folder", "keep") in before


def test_folders_that_a_killed_process_made_are_made_durable_by_the_next(
    place: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mkdir, then kill -9 before the fsync of the parent: the next process finds a folder that a power cut removes."""
    (tmp_path / "keep" / "a" / "b").mkdir(parents=True)
    calls = _record_calls(monkeypatch)
    place.create("a/b/c", b"x")
    synced = {name for kind, name in calls if kind == "fsync folder"}
    assert {"keep", "a", "b"} <= synced


def test_a_failed_fsync_is_not_tried_again_on_the_same_file(
    place: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fail(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    place._known.add(tmp_path / "keep" / "a")
    (tmp_path / "keep" / "a").mkdir()
    with pytest.raises(StorageError, match=r"a/b.*input/output error"):
        place.create("a/b", b"x")
    assert len(synced) == len(set(synced))
    monkeypatch.undo()
    assert os.listdir(tmp_path / "keep" / "a") == []
    place.create("a/b", b"x")
    assert place.read("a/b") == b"x"


def test_a_keep_that_is_removed_under_us_is_a_storage_error(place: LocalBackend, tmp_path: Path) -> None:
    place.create("a/b", b"x")
    (tmp_path / "keep" / "a" / "b").unlink()
    (tmp_path / "keep" / "a").rmdir()
    try:
        place.create("a/c", b"x")
    except StorageError as error:
        assert "a/c" in str(error)  # noqa: PT017  either way out is good, a bare OSError is not
    else:
        assert place.read("a/c") == b"x"


# File systems without hard links


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_without_hard_links_an_object_is_still_created_once(
    place: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", _failing(code))
    place.create("a/b", b"first")
    with pytest.raises(Exception, match="already"):
        place.create("a/b", b"second")
    assert place.read("a/b") == b"first"
    assert os.listdir(tmp_path / "keep" / "a") == ["b"]


def test_without_links_and_exclusive_renames_it_is_said_once(
    place: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _failing(errno.EPERM))
    monkeypatch.setattr("modelkeep.backend.syscalls._rename_noreplace", lambda source, target: False)
    with pytest.warns(RuntimeWarning, match="neither hard links nor renameat2") as told:
        place.create("a/b", b"first")
        place.create("a/c", b"x")
        with pytest.raises(Exception, match="already"):
            place.create("a/b", b"second")
    assert len(told) == 1
    assert place.read("a/b") == b"first"
    assert sorted(os.listdir(tmp_path / "keep" / "a")) == ["b", "c"]


def test_an_object_that_could_not_get_its_name_leaves_the_name_free(
    place: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _failing(errno.EPERM))
    monkeypatch.setattr("modelkeep.backend.syscalls._rename_noreplace", lambda source, target: False)
    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", _failing(errno.EIO))
        with pytest.raises(StorageError, match="input/output error"):
            place.create("a/b", b"x")
    assert os.listdir(tmp_path / "keep" / "a") == []
    with pytest.warns(RuntimeWarning, match="neither hard links"):
        place.create("a/b", b"x")
    assert place.read("a/b") == b"x"


def test_a_link_that_was_made_although_its_answer_was_lost_is_no_conflict(
    place: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS repeats a call whose answer was lost, and then reports the name that it has made itself as taken."""
    link = os.link

    def lost(source: Path, target: Path, **options: Any) -> None:
        link(source, target, **options)
        link(source, target, **options)

    monkeypatch.setattr(os, "link", lost)
    place.create("a/b", b"first")
    assert os.listdir(tmp_path / "keep" / "a") == ["b"]
    with pytest.raises(Exception, match="already"):
        place.create("a/b", b"second")
    assert place.read("a/b") == b"first"


@pytest.mark.parametrize("told", [(0, 0, 0), None])
def test_a_place_that_does_not_tell_its_free_space_takes_objects(
    place: LocalBackend, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    usage = _failing(errno.ENOSYS) if told is None else lambda folder: shutil._ntuple_diskusage(*told)
    monkeypatch.setattr(shutil, "disk_usage", usage)
    place.create("a", b"x")
    assert place.read("a") == b"x"


def test_a_file_system_without_permissions_still_takes_objects(
    place: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exFAT, SMB and mounted drives refuse chmod; 0444 protects, but nothing depends on it."""
    monkeypatch.setattr(os, "fchmod", _failing(errno.EPERM))
    place.create("a", b"x")
    assert place.read("a") == b"x"


# Leftovers


def test_cleaning_removes_unfinished_files_of_one_writer_only(place: LocalBackend, tmp_path: Path) -> None:
    """Two writers share a folder where their tokens begin alike; what the other has under way is not ours to remove."""
    mine = place.writer("shards/ab/ab00000000000001-1.safetensors")
    other = place.writer("shards/ab/ab00000000000002-1.safetensors")
    mine.append(memoryview(b"x"))
    other.append(memoryview(b"y"))
    assert place.clean("shards/ab/ab00000000000001-", place.now() + 3600) == 1
    other.commit()
    assert place.read("shards/ab/ab00000000000002-1.safetensors") == b"y"
    mine.abort()


def test_cleaning_leaves_what_was_begun_later(place: LocalBackend) -> None:
    writer = place.writer("a/b")
    writer.append(memoryview(b"x"))
    assert place.clean("a", place.now() - 3600) == 0
    writer.commit()
    assert place.read("a/b") == b"x"


def test_cleaning_leaves_hidden_files_of_others(place: LocalBackend, tmp_path: Path) -> None:
    names = [".git/.lock.tmp", "a/.hidden", "a/.b.tmp", "a/.b.12-xyz.tmp", "a/b.12-0123abcd.tmp"]
    for name in names:
        (tmp_path / "keep" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "keep" / name).write_text("mine")
    assert place.clean("", place.now() + 3600) == 0
    assert [(tmp_path / "keep" / name).read_text() for name in names] == ["mine"] * 5


def _failing(code: int) -> Any:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def _record_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The calls that make things durable, in their order, with the name that each is about."""
    calls: list[tuple[str, str]] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        calls.append((f"fsync {kind}", name))
        real_fsync(descriptor)

    def link(source: Path, target: Path, **options: Any) -> None:
        calls.append(("link", os.path.basename(target)))
        real_link(source, target, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    return calls
