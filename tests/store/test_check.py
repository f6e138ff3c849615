import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.backend import Backend, LocalBackend, MemoryBackend
from modelkeep.errors import ModelkeepError, StorageError
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.canonical import seal
from modelkeep.state import differences
from modelkeep.store import RunRecord, Store, free, layout
from modelkeep.values import Json

FLIPS = 400


def state(step: int) -> Any:
    return {
        "base": np.arange(500, dtype="f4"),
        "head": np.full(300, step, "f4"),
        "step": step,
        "words": np.array(["a", "bc"], object),
    }


def trained(store: Store, name: str, steps: Any = (10, 20, 30)) -> Any:
    run = store.run(name)
    attempt = run.start_attempt({"writer": ""})
    donor = None
    for epoch, step in enumerate(steps):
        run.append_metrics(attempt, [{"step": step, "epoch": epoch, "values": {"loss": 1 / step}}])
        donor = store.save(state(step), meta={"kind": "checkpoint", "run": name, "step": step}, donor=donor)
        run.commit_checkpoint(attempt, donor, step=step, epoch=epoch, metrics={"loss": 1 / step})
    return run


@pytest.fixture
def keep(local_store: Store, tmp_path: Path) -> Any:
    """The folder of a keep with two runs: one with a dropped checkpoint, one that is finished."""
    run = trained(local_store, "cnn")
    dropped = [one for one in run.checkpoints() if one.number == 2]
    run.drop([2])
    free(local_store, dropped)
    trained(local_store, "other", (10, 20)).finish(local_store.run("other").attempts()[0], {"epochs": 2})
    local_store.save(state(99), meta={"kind": "state"})
    return tmp_path / "keep"


def report(keep: Path, **options: Any) -> Any:
    """What a process that has seen nothing yet finds."""
    return Store.open(LocalBackend(keep)).verify(**options)


def files(keep: Path) -> Any:
    return sorted(path for path in keep.rglob("*") if path.is_file() and path.name != "lock")


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_whole_keep_has_no_damage(keep: Path) -> None:
    found = report(keep)
    assert found.ok
    assert (found.damages, found.foreign) == ((), ())
    assert found.objects == len(files(keep))
    assert found.nbytes == sum(path.stat().st_size for path in files(keep))


def test_every_flipped_bit_in_any_file_is_reported_by_its_key(keep: Path) -> None:
    """A few hundred bits, over all files alike; so small a keep has a few thousand bits that matter in each."""
    chance = random.Random(7)
    paths = files(keep)
    assert {path.relative_to(keep).parts[0] for path in paths} == {"keep.json", "runs", "shards", "snapshots"}
    for number in range(FLIPS):
        path = paths[number % len(paths)]
        whole = path.read_bytes()
        bit = chance.randrange(8 * len(whole))
        flip(path, bit)
        key = path.relative_to(keep).as_posix()
        if key == layout.KEEP:
            with pytest.raises(ModelkeepError, match=r"keep\.json"):  # a keep that is none is not opened
                report(keep)
        else:
            assert key in {damage.key for damage in report(keep).damages}, f"bit {bit} of {key}"
        path.write_bytes(whole)
    assert report(keep).ok


def test_a_flipped_bit_in_keep_json_of_an_open_keep_is_reported(keep: Path) -> None:
    store = Store.open(LocalBackend(keep))
    flip(keep / "keep.json", 100)
    assert [damage.key for damage in store.verify().damages] == ["keep.json"]


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 5000, -1])
def test_a_file_that_is_cut_short_is_reported_by_its_key(keep: Path, cut: int) -> None:
    for path in files(keep)[1:]:
        whole = path.read_bytes()
        if abs(cut) >= len(whole):
            continue
        path.chmod(0o644)
        path.write_bytes(whole[:cut])
        assert path.relative_to(keep).as_posix() in {damage.key for damage in report(keep).damages}
        path.write_bytes(whole)
    assert report(keep).ok


def test_bytes_behind_the_end_are_reported(keep: Path) -> None:
    for path in files(keep)[1:]:
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(whole + b"\0")
        assert path.relative_to(keep).as_posix() in {damage.key for damage in report(keep).damages}
        path.write_bytes(whole)


@pytest.mark.parametrize(("old", "new"), [(b'"F32"', b'"I32"'), (b"str", b"stR")])
def test_a_header_that_still_makes_sense_but_is_not_the_one_written_is_reported(
    keep: Path, old: bytes, new: bytes
) -> None:
    """The bytes of the tensors are whole, and another reader of the file would take them for something else."""
    for path in sorted((keep / "shards").rglob("*.safetensors")):
        whole = path.read_bytes()
        if old not in whole[:4096]:
            continue
        path.chmod(0o644)
        path.write_bytes(whole.replace(old, new, 1))
        (damage,) = report(keep).damages
        assert damage.key == path.relative_to(keep).as_posix()
        assert "header" in damage.what
        path.write_bytes(whole)
        return
    pytest.fail(f"no shard has {old!r} in its header")


def test_a_damaged_tensor_is_named_with_the_checkpoints_that_it_is_part_of(keep: Path) -> None:
    store = Store.open(LocalBackend(keep))
    first = store.run("cnn").checkpoints()[-1]
    snapshot = store.snapshot(first.snapshot_id)
    (shard,) = snapshot.shards
    path = keep / layout.shard_key(shard)
    data = path.read_bytes()
    flip(path, 8 * data.index(np.arange(500, dtype="f4").tobytes()) + 900)
    (damage,) = report(keep).damages
    assert damage.key == layout.shard_key(shard)
    assert damage.tensors == ("base",)
    # the base is shared with the later checkpoints of the run, which reuse its piece
    assert damage.refs == ("run:cnn@10", "run:cnn@30")
    assert set(damage.snapshots) == {one.snapshot_id for one in store.run("cnn").checkpoints()}
    assert "restore" in damage.what


def test_a_shard_that_is_gone_is_reported_with_all_its_tensors(keep: Path) -> None:
    store = Store.open(LocalBackend(keep))
    last = store.run("cnn").checkpoints()[0]
    snapshot = store.snapshot(last.snapshot_id)
    own = [shard for shard in snapshot.shards if "head" in tensors_in(snapshot, shard)]
    (keep / layout.shard_key(own[0])).unlink()
    (damage,) = report(keep).damages
    assert damage.key == layout.shard_key(own[0])
    assert damage.tensors == ("head",)
    assert damage.refs == ("run:cnn@30",)
    assert "gone" in damage.what


def tensors_in(snapshot: Snapshot, shard: str) -> Any:
    pieces = {piece for piece, place in snapshot.places.items() if place.shard == shard}
    return {path for path, spec in snapshot.tensors.items() if pieces & set(spec.pieces)}


def test_a_record_that_is_gone_is_reported_with_its_checkpoint(keep: Path) -> None:
    store = Store.open(LocalBackend(keep))
    last = store.run("cnn").checkpoints()[0]
    (keep / layout.snapshot_key(last.snapshot_id)).unlink()
    (damage,) = report(keep).damages
    assert damage.key == layout.snapshot_key(last.snapshot_id)
    assert damage.refs == ("run:cnn@30",)


def test_a_damaged_record_of_a_checkpoint_says_which_it_is(keep: Path) -> None:
    flip(keep / "runs" / "cnn" / "checkpoints" / "9999999996.json", 100)
    (damage,) = report(keep).damages
    assert damage.key == "runs/cnn/checkpoints/9999999996.json"
    assert "checkpoint 3 of run cnn" in damage.what


def test_a_damaged_tombstone_is_one_damage_and_not_a_missing_record_too(keep: Path) -> None:
    flip(keep / "runs" / "cnn" / "dropped" / "9999999998.json", 100)
    assert [damage.key for damage in report(keep).damages] == ["runs/cnn/dropped/9999999998.json"]


def test_a_snapshot_under_the_name_of_another_is_damage(keep: Path) -> None:
    one, other = sorted((keep / "snapshots").rglob("*.json"))[:2]
    other.chmod(0o644)
    other.write_bytes(one.read_bytes())
    assert other.relative_to(keep).as_posix() in {damage.key for damage in report(keep).damages}


@pytest.mark.parametrize(
    "document", [{}, {"number": 3}, {"number": 1, "snapshot": "../../x"}, {"number": "3"}], ids=str
)
def test_a_sealed_checkpoint_that_makes_no_sense_is_damage_and_no_traceback(
    keep: Path, document: dict[str, Json]
) -> None:
    path = keep / "runs" / "cnn" / "checkpoints" / "9999999996.json"
    path.chmod(0o644)
    path.write_bytes(seal(document))
    assert [damage.key for damage in report(keep).damages] == ["runs/cnn/checkpoints/9999999996.json"]


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"digest": 1e999}'])
def test_hostile_text_in_any_record_is_damage_and_no_traceback(keep: Path, text: bytes) -> None:
    for path in files(keep)[1:]:
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(text)
        assert path.relative_to(keep).as_posix() in {damage.key for damage in report(keep).damages}
        path.write_bytes(whole)


def test_an_attempt_under_the_number_of_another_is_damage(keep: Path) -> None:
    """Each has its digest, and what is sealed in it does not belong there."""
    attempts = keep / "runs" / "cnn" / "attempts"
    (attempts / "9999999997").mkdir()
    (attempts / "9999999997" / "start.json").write_bytes((attempts / "9999999998" / "start.json").read_bytes())
    assert [damage.key for damage in report(keep).damages] == ["runs/cnn/attempts/9999999997/start.json"]


def test_the_mark_of_an_end_that_makes_no_sense_is_damage(keep: Path) -> None:
    path = keep / "runs" / "other" / "finished" / "9999999998.json"
    path.chmod(0o644)
    path.write_bytes(seal({"number": 1}))
    assert [damage.key for damage in report(keep).damages] == ["runs/other/finished/9999999998.json"]


def test_a_record_of_a_terabyte_is_damage_and_is_not_read(keep: Path) -> None:
    """A hole in a file takes no space on the disk, and all of it in memory."""
    for path in files(keep)[1:]:
        if path.suffix == ".json":
            size = path.stat().st_size
            os.truncate(path, 1 << 40)
            (damage,) = [damage for damage in report(keep).damages if damage.key == path.relative_to(keep).as_posix()]
            assert "1,099,511,627,776 bytes" in damage.what
            os.truncate(path, size)
    assert report(keep).ok
    os.truncate(keep / "keep.json", 1 << 40)
    with pytest.raises(ModelkeepError, match=r"keep\.json has 1,099,511,627,776 bytes"):
        report(keep)


def test_folders_that_are_symlinks_are_foreign_and_are_not_followed(keep: Path) -> None:
    for name in ("runs", "shards", "snapshots/ab"):
        path = keep / name
        elsewhere = keep.parent / f"elsewhere-{path.name}"
        if path.exists():
            path.rename(elsewhere)
        path.symlink_to(elsewhere)
    found = report(keep)
    assert set(found.foreign) == {"runs", "shards", "snapshots/ab"}
    assert found.damages  # the shards of the records cannot be had


# What a newer version has written


def test_a_record_of_a_newer_format_is_named_as_that_and_is_no_damage(keep: Path) -> None:
    store = Store.open(LocalBackend(keep))
    last = store.run("cnn").checkpoints()[0]
    path = keep / layout.snapshot_key(last.snapshot_id)
    document = json.loads(path.read_bytes())
    document.pop("digest")
    path.chmod(0o644)
    path.write_bytes(seal({**document, "modelkeep": 2}))
    found = report(keep)
    assert not found.ok
    assert found.damages == ()
    (newer,) = found.newer
    assert (newer.key, newer.refs) == (layout.snapshot_key(last.snapshot_id), ("run:cnn@30",))
    assert "upgrade" in newer.what


def test_a_node_of_a_newer_version_in_a_checkpoint_is_no_damage(keep: Path) -> None:
    path = keep / "runs" / "cnn" / "checkpoints" / "9999999996.json"
    document = json.loads(path.read_bytes())
    document.pop("digest")
    path.chmod(0o644)
    path.write_bytes(seal({**document, "metrics": {"loss": {"$": "fraction", "value": "1/3"}}}))
    found = report(keep)
    assert found.damages == ()
    assert [one.key for one in found.newer] == ["runs/cnn/checkpoints/9999999996.json"]
    assert found.newer[0].what.count("9999999996.json") == 1


# What is not of the keep


def test_foreign_files_are_listed_and_are_no_damage(keep: Path) -> None:
    names = [
        "notes.txt",
        "shards/readme",
        "shards/ab/notes.txt",
        "shards/ab/ab.safetensors",
        "snapshots/ab/mine.json",
        "runs/cnn/notes",
        "runs/cnn/checkpoints/notes.json",
        "runs/my run/x.json",
        "runs/notes.md",
        "other/lock",
        "gc/mine",
        ".git/config",
    ]
    for name in names:
        (keep / name).parent.mkdir(parents=True, exist_ok=True)
        (keep / name).write_text("mine")
    found = report(keep)
    assert found.damages == ()
    assert sorted(found.foreign) == sorted(names)


def test_names_that_are_no_text_are_listed_as_foreign(keep: Path) -> None:
    with open(os.fsencode(keep) + b"/shards/\xff\xfe", "wb") as file:
        file.write(b"mine")
    found = report(keep)
    assert found.damages == ()
    assert len(found.foreign) == 1
    found.foreign[0].encode()  # it can be printed


def test_a_planted_symlink_is_damage_and_is_not_followed(keep: Path) -> None:
    path = next((keep / "shards").rglob("*.safetensors"))
    path.rename(keep.parent / "elsewhere")
    path.symlink_to(keep.parent / "elsewhere")
    assert path.relative_to(keep).as_posix() in {damage.key for damage in report(keep).damages}


# While others work


@pytest.mark.parametrize("with_commit", [False, True], ids=["dropped", "committed and dropped"])
def test_what_happens_meanwhile_is_no_damage(with_commit: bool) -> None:
    """Before each call of a verification once: a run drops all but its newest checkpoint, or commits one first."""
    for number in range(1, 500):
        backend = MemoryBackend(f"meanwhile-{with_commit}-{number}")
        store = Store.open(backend)
        run = trained(store, "cnn")

        def work(store: Store = store, run: RunRecord = run) -> None:
            if with_commit:
                snapshot = store.save(state(40), meta={"kind": "checkpoint", "step": 40})
                run.commit_checkpoint(run.attempts()[0], snapshot, step=40, epoch=4)
            drop_all_but_newest(store, run)

        verifying = Store.open(MemoryBackend(f"meanwhile-{with_commit}-{number}"))
        happened = on_call(verifying.backend, number, work)
        assert verifying.verify().damages == (), f"before call {number}"
        if not happened:
            break
    assert number > 20


def drop_all_but_newest(store: Store, run: RunRecord) -> None:
    dropped = run.checkpoints()[1:]
    run.drop([one.number for one in dropped])
    free(store, dropped)


def on_call(backend: Backend, number: int, verb: Any) -> Any:
    """Before the ``number``-th call of ``backend``, do ``verb`` once; the list that is returned says that it was."""
    happened: list[bool] = []
    calls = 0

    def hook(found: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                verb()
                happened.append(True)
            return found(*arguments, **options)

        return call

    for name in ("read", "read_into", "size", "list"):
        setattr(backend, name, hook(getattr(backend, name)))
    return happened


def test_an_object_that_the_device_cannot_read_is_damage_and_the_rest_is_read(
    keep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(LocalBackend(keep))
    victims = [
        next((keep / "shards").rglob("*.safetensors")).relative_to(keep).as_posix(),
        next((keep / "snapshots").rglob("*.json")).relative_to(keep).as_posix(),
        "runs/cnn/checkpoints/9999999998.json",
    ]
    read = store.backend.read

    def fail(key: str, *arguments: Any, **options: Any) -> Any:
        if key in victims:
            raise StorageError(f"could not read {key}: input/output error")
        return read(key, *arguments, **options)

    monkeypatch.setattr(store.backend, "read", fail)
    found = {damage.key: damage.what for damage in store.verify().damages}
    assert set(victims) <= found.keys()
    for key in victims:
        assert "input/output error" in found[key]


# Progress


def test_progress_counts_every_byte_once_up_to_the_whole(keep: Path) -> None:
    told: list[tuple[int, int]] = []
    found = report(keep, on_progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {found.nbytes}
    assert told[-1] == (found.nbytes, found.nbytes)


def test_progress_is_told_within_a_large_shard(tmp_path: Path) -> None:
    store = Store.open(LocalBackend(tmp_path / "keep"))
    store.save({"w": np.random.default_rng(0).normal(size=(5000, 1000)).astype("f4")}, meta={"kind": "state"})
    told: list[int] = []
    store.verify(lambda done, total: told.append(done))
    assert max(later - earlier for earlier, later in zip([0, *told], told, strict=False)) < 6 << 20


def test_a_keep_in_memory_and_an_empty_one_can_be_verified() -> None:
    store = Store.open(MemoryBackend("verified"))
    assert store.verify().ok
    trained(store, "cnn")
    assert store.verify().ok
    assert differences(store.load(store.resolve("cnn@30")), state(30)) == []


class Waited(MemoryBackend):
    """A store whose requests are waited for."""

    requests = 4

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked: list[str] = []

    def read(self, key: str, start: int = 0, end: int | None = None, *, limit: int | None = None) -> bytes:
        self.asked.append(key)
        return super().read(key, start, end, limit=limit)


def test_a_store_that_is_waited_for_is_asked_for_each_object_once_and_the_findings_are_the_same() -> None:
    backend = Waited("verify-side-by-side")
    store = Store.open(backend, create=True)
    for number in range(6):
        store.save({f"w{part}": np.full(9, 100 * number + part) for part in range(20)}, meta={})
    entries = list(backend.list(""))
    backend.asked.clear()
    assert store.verify().ok
    assert sorted(backend.asked) == sorted(entry.key for entry in entries)
    shards = [entry for entry in entries if entry.key.startswith("shards/")]
    for entry in (shards[4], shards[1]):
        data = bytearray(backend.read(entry.key))
        data[-1] ^= 1
        backend.delete(entry.key)
        backend.create(entry.key, data)
    told: list[tuple[int, int]] = []
    side_by_side = store.verify(lambda done, total: told.append((done, total)))
    assert [damage.key for damage in side_by_side.damages] == [shards[1].key, shards[4].key]
    assert told[-1][0] == told[-1][1]
    backend.requests = 1
    assert store.verify() == side_by_side
