import os
import secrets
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modelkeep.backend import LocalBackend, MemoryBackend
from modelkeep.errors import Damaged, NotFound, UnsupportedState, UsageError
from modelkeep.snapshot import Snapshot
from modelkeep.state import differences
from modelkeep.store import VERSION_SHARDS, Part, Store, free, free_versions, layout

from .test_retention_races import Turned, Turns
from .test_sweep import DAY

MODEL = {"kind": "model"}


def state() -> dict[str, Any]:
    """What a checkpoint holds: arrays of several pieces, of odd dtypes, and JSON."""
    return {
        "model": {
            "dense": {"kernel": np.arange(3_000_000, dtype="f4").reshape(3000, 1000), "bias": np.zeros(1000, "f4")},
            "low": np.arange(12).astype(ml_dtypes.bfloat16).reshape(3, 4),
            "words": np.array(["a", "é", ""], object),
            "raw": bytes(range(256)) * 20,
            "odd": {3: np.ones(2), "3": [np.zeros(2), (1, None)]},
            "a/b": np.int64(7),
        },
        "optimizer": [np.full(5, 2.0), {"rate": 0.1}],
        "step": 12,
    }


@pytest.fixture
def checkpoint(store: Store) -> Snapshot:
    return store.save(state(), meta={"kind": "checkpoint", "run": "cnn", "step": 12})


class Counted:
    """A backend that counts the bytes that pass, by the folder that they are of."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.written: dict[str, int] = {}
        self.read_from: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def create(self, key: str, data: bytes) -> None:
        self._count(self.written, key, len(data))
        self._backend.create(key, data)

    def read(self, key: str, start: int = 0, end: int | None = None, *, limit: int | None = None) -> bytes:
        data: bytes = self._backend.read(key, start, end, limit=limit)
        self._count(self.read_from, key, len(data))
        return data

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        self._count(self.read_from, key, buffer.nbytes)
        self._backend.read_into(key, start, buffer)

    def writer(self, key: str, *, size_hint: int = 0) -> Any:
        counted, inner = self, self._backend.writer(key, size_hint=size_hint)

        class Writer:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def append(self, data: memoryview) -> int:
                counted._count(counted.written, key, data.nbytes)
                return int(inner.append(data))

        return Writer()

    def _count(self, counts: dict[str, int], key: str, nbytes: int) -> None:
        folder = key.partition("/")[0]
        counts[folder] = counts.get(folder, 0) + nbytes


@pytest.fixture
def counted(store: Store) -> Counted:
    store.backend = Counted(store.backend)
    return store.backend


# What it gives


def test_a_promoted_state_is_that_of_its_parts_and_of_what_is_new(store: Store, checkpoint: Snapshot) -> None:
    new = {"inputs": {"x": np.ones((4, 3), "f4")}, "outputs": [np.zeros(4)]}
    model = store.promote(
        checkpoint,
        {"model": Part("model"), "architecture": {"layers": [1, {"units": 3}]}, "examples": new},
        meta={**MODEL, "card": "digits"},
    )
    wanted = {"model": state()["model"], "architecture": {"layers": [1, {"units": 3}]}, "examples": new}
    assert differences(wanted, store.load(model)) == []
    assert model.meta == {**MODEL, "card": "digits"}
    assert Store.open(store.backend).verify().ok


def test_a_promoted_state_has_the_id_of_the_same_state_saved(store: Store, checkpoint: Snapshot) -> None:
    """However it came to be, an equal state with equal metadata is one snapshot."""
    model = store.promote(checkpoint, {"model": Part("model"), "card": "x"}, meta=MODEL)
    elsewhere = Store.open(MemoryBackend(secrets.token_hex(8)))
    assert elsewhere.save({"model": state()["model"], "card": "x"}, meta=MODEL).id == model.id


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ("", state()),
        ("model/dense/kernel", state()["model"]["dense"]["kernel"]),
        ("model/odd", state()["model"]["odd"]),
        ("model/odd/3", state()["model"]["odd"][3]),
        ("model/odd/%33", state()["model"]["odd"]["3"]),
        ("model/odd/%33/1", (1, None)),
        ("model/a%2Fb", np.int64(7)),
        ("model/raw", bytes(range(256)) * 20),
        ("optimizer", state()["optimizer"]),
        ("step", 12),
    ],
)
def test_a_part_may_be_anything_and_come_to_lie_anywhere(
    store: Store, checkpoint: Snapshot, part: str, wanted: Any
) -> None:
    model = store.promote(checkpoint, {"deep": {"a/b": {"": Part(part)}, "n": 1}, "twice": Part(part)}, meta=MODEL)
    assert differences({"deep": {"a/b": {"": wanted}, "n": 1}, "twice": wanted}, store.load(model)) == []


def test_the_whole_state_may_be_promoted_alone(store: Store, checkpoint: Snapshot) -> None:
    assert differences(state(), store.load(store.promote(checkpoint, Part(), meta=MODEL))) == []


def test_a_part_that_is_not_there_is_answered_with_close_paths(store: Store, checkpoint: Snapshot) -> None:
    for path in ("modell", "model/dense/kernl", "model/dense/kernel/0", "step/x", "/"):
        with pytest.raises(NotFound, match=r"there is no .* in the state; there is (step|.*/)"):
            store.promote(checkpoint, {"model": Part(path)}, meta=MODEL)


def test_a_part_where_none_can_stand_is_refused_by_its_path(store: Store, checkpoint: Snapshot) -> None:
    for tree in ({"a": [Part("model")]}, {"a": {3: Part("model")}}, {"a": {"$b": Part("model")}}):
        with pytest.raises(UnsupportedState, match=r"^a/.*Part"):
            store.promote(checkpoint, tree, meta=MODEL)
    deep: Any = Part("model")
    for _ in range(64):
        deep = {"a": deep}
    with pytest.raises(UnsupportedState, match="64 containers"):
        store.promote(checkpoint, deep, meta=MODEL)
    with pytest.raises(UnsupportedState, match="2048"):
        store.promote(checkpoint, {"a" * 2040: Part("model")}, meta=MODEL)
    with pytest.raises(UsageError, match="meta"):
        store.promote(checkpoint, {"a": Part("model")}, meta={"loss": float("nan")})


# What it costs


def test_a_promotion_reads_no_tensor_and_writes_none(store: Store, checkpoint: Snapshot, counted: Counted) -> None:
    model = store.promote(checkpoint, {"model": Part("model"), "card": "digits"}, meta=MODEL)
    store.model("digits").publish(model, metrics={"accuracy": 0.9})
    assert counted.written.keys() == {"snapshots", "models"}
    assert sum(counted.written.values()) < 8000
    assert sum(counted.read_from.values()) == 0
    assert model.shards.keys() == checkpoint.shards.keys()


def test_a_promotion_writes_of_new_arrays_only_those(store: Store, checkpoint: Snapshot, counted: Counted) -> None:
    examples = {"inputs": np.ones((10, 100)), "same": state()["model"]["dense"]["bias"]}
    store.promote(checkpoint, {"model": Part("model"), "examples": examples}, meta=MODEL)
    assert counted.written["shards"] == examples["inputs"].nbytes
    assert "shards" not in counted.read_from


def test_a_promotion_takes_the_tensors_of_any_number_of_shards(store: Store, counted: Counted) -> None:
    """A checkpoint that takes of more shards than a save would: nothing is written again to have fewer."""
    grown = store.save({"layer0": np.zeros(100)}, meta=MODEL)
    for number in range(1, 40):
        grown = store.promote(
            grown, {**{name: Part(name) for name in grown.structure}, f"layer{number}": np.full(100, number)}
        )
    counted.written.clear()
    model = store.promote(grown, Part(), meta=MODEL)
    assert len(model.shards) == 40
    assert counted.written.keys() == {"snapshots"}


def bytes_on_disk(folder: Path) -> int:
    """What the files take of the disk, in whole blocks."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def publish_many(folder: Path, versions: int, promoting: bool) -> float:
    """Publish versions of fifty layers of 1 MiB, one changed each; the bytes on disk as a multiple of the changed."""
    layers, nbytes = 50, 1 << 20
    generator = np.random.default_rng(7)
    draw = lambda: generator.integers(0, 256, nbytes, "u1").view("f4")  # noqa: E731
    store = Store.open(LocalBackend(folder / "keep"))
    model = store.model("digits")
    weights = {f"layer-{number:02d}": draw() for number in range(layers)}
    snapshot = store.save({"model": weights, "version": 1}, meta=MODEL)
    model.publish(snapshot)
    for number in range(2, versions + 1):
        name = f"layer-{generator.integers(layers):02d}"
        weights[name] = draw()
        if promoting:
            parts: dict[str, Any] = {one: Part(f"model/{one}") for one in weights}
            tree = {"model": {**parts, name: weights[name]}, "version": number}
            snapshot = store.promote(snapshot, tree, meta=MODEL)
        else:
            tree = {"model": weights, "version": number}
            snapshot = store.save(tree, meta=MODEL, donor=snapshot, donor_shards=VERSION_SHARDS)
        model.publish(snapshot)
    assert differences({"model": weights, "version": versions}, store.load(store.resolve("model:digits"))) == []
    return bytes_on_disk(folder / "keep") / ((layers + versions - 1) * nbytes)


@pytest.mark.parametrize("promoting", [False, True])
def test_120_versions_with_one_of_fifty_layers_changed_cost_what_has_changed(tmp_path: Path, promoting: bool) -> None:
    """Beyond the sixteen shards of a checkpoint, so that nothing is written again to have fewer."""
    assert publish_many(tmp_path, 120, promoting) <= 1.05


@pytest.mark.torture
def test_1_000_versions_with_one_of_fifty_layers_changed_cost_what_has_changed(tmp_path: Path, tried: Any) -> None:
    times = publish_many(tmp_path, 1000, promoting=False)
    tried(1000, "versions with one of fifty layers changed", f"{times:.3f} x the changed bytes on disk")
    assert times <= 1.05


# What it must not lose


def trained(store: Store, steps: Any = (1, 2, 3)) -> list[Any]:
    """A run whose checkpoints share a base."""
    run = store.run("cnn")
    attempt = run.start_attempt({})
    donor, made = None, []
    for step in steps:
        tree = {"model": {"base": np.arange(5000, dtype="f4"), "head": np.full(3000, step, "f4")}, "step": step}
        donor = store.save(tree, meta={"kind": "checkpoint", "run": "cnn", "step": step}, donor=donor)
        made.append(run.commit_checkpoint(attempt, donor, step=step, epoch=0))
    return made


def published(store: Store, step: int) -> Any:
    source = store.resolve(f"run:cnn@{step}")
    model = store.promote(source, {"model": Part("model"), "card": "digits"}, meta={**MODEL, "step": step})
    return store.model("digits").publish(model, info={"source": f"run:cnn@{step}"})


def head_of(store: Store, ref: str) -> float:
    return float(store.load(store.resolve(ref))["model"]["head"][0])


def grow_old(store: Store, folder: Path, prefix: str = "") -> None:
    then = store.backend.now() - 2 * DAY
    for entry in store.backend.list(prefix):
        os.utime(folder / entry.key, (then, then))


def drop(store: Store, steps: set[int]) -> None:
    run = store.run("cnn")
    dropped = [one for one in run.checkpoints() if one.step in steps]
    run.drop([one.number for one in dropped])
    free(store, dropped)


def test_retention_of_the_run_takes_nothing_that_a_version_shares(store: Store) -> None:
    trained(store)
    published(store, 1)
    drop(store, {1, 2})
    again = Store.open(store.backend)
    assert head_of(again, "model:digits@1") == 1
    assert again.verify().ok
    assert len(list(store.backend.list(layout.SHARDS))) == 2  # that of step 2 alone is gone


def test_a_collection_takes_neither_a_version_nor_what_it_shares(local_store: Store, tmp_path: Path) -> None:
    trained(local_store)
    for step in (1, 2):
        published(local_store, step)
    drop(local_store, {1, 2})
    grow_old(local_store, tmp_path / "keep")
    assert Store.open(local_store.backend).gc(dry_run=False).removed == ()
    again = Store.open(local_store.backend)
    assert [head_of(again, f"model:digits@{number}") for number in (1, 2)] == [1, 2]
    assert again.verify().ok


def test_a_snapshot_that_a_run_drops_and_a_version_names_stays(store: Store) -> None:
    """None is published by us; what another writer of the keep has named is not taken either."""
    (first, *_) = trained(store)
    snapshot = store.snapshot(first.snapshot_id)
    object.__setattr__(snapshot, "meta", MODEL)
    store.model("digits").publish(snapshot)
    drop(store, {1})
    assert head_of(Store.open(store.backend), "model:digits@1") == 1


def test_removed_versions_give_their_bytes_back_but_for_what_is_shared(store: Store) -> None:
    trained(store)
    first, second = published(store, 1), published(store, 2)
    drop(store, {1, 2})
    for version in (first, second):
        store.model("digits").remove(version.number)
        free_versions(store, [version])
        assert not store.has_snapshot(version.snapshot_id)
    again = Store.open(store.backend)
    assert head_of(again, "run:cnn@3") == 3
    assert again.verify().ok
    # The base lies in the shard of step 1, which step 3 holds.
    assert len(list(store.backend.list(layout.SHARDS))) == 2
    assert list(store.backend.list("gc")) == []


def test_what_two_versions_name_or_somebody_keeps_by_its_id_stays(store: Store) -> None:
    trained(store)
    first = published(store, 1)
    second = store.model("letters").publish(store.snapshot(first.snapshot_id))
    state = store.model("digits").publish(store.save({"a": np.ones(3)}, meta={"kind": "state"}))
    store.model("digits").remove(first.number)
    store.model("digits").remove(state.number)
    free_versions(store, [first, state])
    assert head_of(store, "model:letters@1") == 1
    assert store.has_snapshot(state.snapshot_id)
    store.model("letters").remove(second.number)
    free_versions(store, [second])
    assert not store.has_snapshot(first.snapshot_id)


def test_a_collection_takes_what_was_removed_and_what_a_killed_publisher_left(
    local_store: Store, tmp_path: Path
) -> None:
    trained(local_store)
    gone, kept = published(local_store, 1), published(local_store, 2)
    local_store.model("digits").remove(gone.number)
    left = local_store.save({"model": np.full(9, 9.0)}, meta=MODEL)
    assert Store.open(local_store.backend).gc(dry_run=False).removed == ()  # they are young
    grow_old(local_store, tmp_path / "keep")
    report = Store.open(local_store.backend).gc(dry_run=False)
    assert {one.key for one in report.removed} == {
        layout.snapshot_key(gone.snapshot_id),
        layout.snapshot_key(left.id),
        *(layout.shard_key(shard) for shard in left.shards),
    }
    again = Store.open(local_store.backend)
    assert not again.has_snapshot(gone.snapshot_id)
    assert again.has_snapshot(kept.snapshot_id)
    assert again.verify().ok
    assert list(local_store.backend.list("gc")) == []


def test_a_damaged_version_lets_nothing_be_deleted(store: Store) -> None:
    trained(store)
    published(store, 1)
    version = published(store, 2)
    store.model("digits").remove(2)
    key = "models/digits/versions/9999999998.json"
    store.backend.delete(key)
    store.backend.create(key, b"{}")
    again = Store.open(store.backend)
    with pytest.warns(RuntimeWarning, match="no space was freed"):
        free_versions(again, [version])
    with pytest.raises(Damaged, match=key):
        again.gc(dry_run=False)
    assert again.has_snapshot(version.snapshot_id)
    assert list(store.backend.list("gc")) == []


def test_a_sentence_of_a_collector_that_died_is_lifted_when_it_is_old(local_store: Store, tmp_path: Path) -> None:
    version = trained(local_store) and published(local_store, 1)
    key = layout.condemned_snapshot_key(version.snapshot_id)
    local_store.backend.create(key, b"")
    assert Store.open(local_store.backend).verify().ok
    Store.open(local_store.backend).gc(dry_run=False)
    assert [entry.key for entry in local_store.backend.list("gc")] == [key]
    grow_old(local_store, tmp_path / "keep")
    Store.open(local_store.backend).gc(dry_run=False)
    assert list(local_store.backend.list("gc")) == []
    assert head_of(local_store, "model:digits@1") == 1


# A promotion while its source is let go


def test_no_pair_of_pauses_lets_a_promotion_lose_what_its_run_drops() -> None:
    """The source is dropped and collected at that moment: the promotion has all of it, or says that it is gone."""
    outcomes = set()
    for first, second in (("writer", "collector"), ("collector", "writer")):
        for before in range(26):
            for during in (*range(1, 16), 1000):
                order = [first] * before + [second] * during + [first] * 1000
                outcomes.add(_promote_while_dropped(order))
    assert outcomes >= {True, False}


def _promote_while_dropped(order: list[str]) -> bool:
    backend = MemoryBackend(secrets.token_hex(8))
    store = Store.open(backend)
    trained(store, range(1, 5))
    source = store.resolve("run:cnn@3")
    turns = Turns(order)
    writer, collector = Store.open(backend), Store.open(backend)
    writer.backend, collector.backend = Turned(backend, turns), Turned(backend, turns)  # type: ignore[assignment]

    def promote() -> Any:
        tree = {"model": Part("model"), "card": "digits"}
        try:
            return writer.model("digits").publish(writer.promote(source, tree, meta=MODEL))
        except (Damaged, NotFound):
            return None

    version = turns.play({"writer": promote, "collector": lambda: drop(collector, {1, 2, 3})})["writer"]
    again = Store.open(backend)
    if version is not None:
        assert head_of(again, "model:digits@1") == 3
    else:
        assert again.model("digits").versions() == []
    assert head_of(again, "run:cnn@4") == 4
    assert again.verify().ok
    return version is not None
