import concurrent.futures
import os
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings

import modelkeep as mk
from modelkeep.backend import LocalBackend, MemoryBackend
from modelkeep.errors import LimitExceeded, StorageError, UnsupportedState, UsageError
from modelkeep.state import differences
from modelkeep.store import Store, layout, save

from ..state.states import trees


def shard_bytes(store):
    return sum(entry.size for entry in store.backend.list(layout.SHARDS))


def test_a_state_comes_back_bit_for_bit(store, tree):
    snapshot = store.save(tree, meta={"kind": "state", "step": 3})
    assert differences(tree, store.load(snapshot)) == []
    again = Store.open(store.backend)
    assert again.snapshot(snapshot.id) == snapshot
    assert differences(tree, again.load(snapshot.id)) == []


@given(trees())
@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
def test_any_state_comes_back_bit_for_bit(store, tree):
    snapshot = store.save(tree, meta={})
    assert differences(tree, store.load(snapshot.id)) == []


def test_what_is_loaded_can_be_written_to_and_belongs_to_nobody_else(store):
    array = np.arange(4)
    snapshot = store.save({"a": array, "b": array}, meta={})
    loaded = store.load(snapshot)
    loaded["a"][0] = 9
    assert loaded["b"][0] == 0
    assert store.load(snapshot)["a"][0] == 0


def test_a_bare_array_is_a_state_too(store):
    assert store.load(store.save(np.arange(3), meta={})).tolist() == [0, 1, 2]


def test_equal_states_share_their_digest_and_not_their_id(store):
    one, other = store.save({"a": np.ones(3)}, meta={"step": 1}), store.save({"a": np.ones(3)}, meta={"step": 2})
    assert one.state_digest == other.state_digest
    assert one.id != other.id


def test_pieces_of_the_donor_are_not_written_again(store, tree):
    first = store.save(tree, meta={"step": 1})
    before = shard_bytes(store)
    tree["model"]["dense/1"]["kernel"] = tree["model"]["dense/1"]["kernel"] + 1
    second = store.save(tree, meta={"step": 2}, donor=first)
    assert shard_bytes(store) - before < 20_000
    assert differences(tree, store.load(second.id)) == []
    third = store.save(tree, meta={"step": 3}, donor=second)
    assert third.shards == second.shards
    assert shard_bytes(store) - before < 20_000


def test_equal_pieces_of_one_state_are_written_once(store):
    zeros = {f"slot{n}": np.zeros((3000, 1000), "f4") for n in range(5)}
    snapshot = store.save(zeros, meta={})
    assert shard_bytes(store) < 9_000_000
    assert differences(zeros, store.load(snapshot.id)) == []


def test_a_state_without_arrays_writes_no_shard(store):
    snapshot = store.save({"epoch": 3, "none": np.empty(0)}, meta={})
    assert list(store.backend.list(layout.SHARDS)) == []
    assert store.load(snapshot.id)["epoch"] == 3


def test_a_snapshot_takes_pieces_from_at_most_16_older_shards(store):
    tree = {str(n): np.full(1000, n) for n in range(30)}
    snapshot = store.save(tree, meta={"n": -1})
    for n in range(30):
        tree[str(n)] = tree[str(n)] + 100
        snapshot = store.save(tree, meta={"n": n}, donor=snapshot)
        assert len(snapshot.shards) <= save.MAX_DONOR_SHARDS + 1
    assert differences(tree, store.load(snapshot.id)) == []


def test_a_large_state_takes_several_shards(store, tree, monkeypatch):
    monkeypatch.setattr(save, "SHARD_ENTRIES", 4)
    monkeypatch.setattr(type(store.backend), "shard_bytes", 5_000_000)
    snapshot = store.save(tree, meta={})
    assert len(snapshot.shards) > 4
    for entry in store.backend.list(layout.SHARDS):
        assert len(safetensors.deserialize(store.backend.read(entry.key))) <= 4
    assert differences(tree, store.load(snapshot.id)) == []
    tree["model"]["dense"]["bias"] = np.ones(1000, "f4")
    second = store.save(tree, meta={}, donor=snapshot)
    assert differences(tree, store.load(second.id)) == []


def test_every_shard_is_a_safetensors_file_whose_arrays_are_aligned(store, tree):
    store.save(tree, meta={})
    (entry,) = store.backend.list(layout.SHARDS)
    data = store.backend.read(entry.key)
    names = {name for name, _ in safetensors.deserialize(data)}
    assert {"model/dense/bias", "model/dense%2F1/kernel", "model/dense/kernel#rows-0-1048"} <= names
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 4096 == 0
    kernel = tree["model"]["dense"]["kernel"].tobytes()[:1000]
    assert data.index(kernel) % 4 == 0


def test_the_shard_alone_says_which_dtypes_the_format_lacks(store, tree, tmp_path):
    store.save(tree, meta={})
    (entry,) = store.backend.list(layout.SHARDS)
    (tmp_path / "x").write_bytes(store.backend.read(entry.key))
    with safetensors.safe_open(tmp_path / "x", "np") as shard:
        assert '"optimizer/bits":"int4"' in shard.metadata()["dtypes"]
        assert "bias" not in shard.metadata()["dtypes"]


def test_a_contiguous_state_is_saved_without_a_copy_of_it(local_store):
    tree = {"a": np.ones((16_000_000,), "f4"), "b": np.zeros((4000, 4000), "f4").T}
    tracemalloc.start()
    local_store.save(tree, meta={})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000


def test_a_small_save_asks_the_kernel_for_durability_at_most_8_times(tmp_path, monkeypatch):
    store = Store.open(LocalBackend(tmp_path / "keep"))
    run = store.run("cnn")
    attempt = run.start_attempt({"writer": "0" * 16})
    generator = np.random.default_rng(1)
    counts = []
    real = os.fsync
    calls = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(descriptor), real(descriptor))[1])
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (calls.append(descriptor), real(descriptor))[1])
    donor = None
    for step in range(5):
        calls.clear()
        tree = {str(n): generator.normal(size=2500) for n in range(50)}
        donor = store.save(tree, meta={"step": step}, writer="0" * 16, donor=donor)
        run.commit_checkpoint(attempt, donor, step=step, epoch=0, metrics={}, reason="policy", exact=True)
        counts.append(len(calls))
    assert 4 <= max(counts[1:]) <= 8


@pytest.mark.parametrize("meta", [{"a": float("nan")}, {"a": (1,)}, {3: 1}, {"a": np.float32(1)}])
def test_metadata_that_would_not_come_back_is_refused_before_anything_is_written(store, meta):
    with pytest.raises(UsageError, match="meta"):
        store.save({"a": np.ones(3)}, meta=meta)
    assert [entry.key for entry in store.backend.list("")] == ["keep.json"]


@pytest.mark.parametrize("writer", ["x", "../../../../etc/x", "0" * 15, "A" * 16])
def test_a_writer_that_no_record_could_name_is_refused(store, writer):
    with pytest.raises(UsageError, match="16 lower-case"):
        store.save({"a": np.ones(3)}, meta={}, writer=writer)


def test_a_state_that_cannot_be_kept_leaves_nothing_behind(store):
    with pytest.raises(UnsupportedState, match=r"z: .*float64"):
        store.save({"a": np.ones(3), "z": np.longdouble(1)}, meta={})
    with pytest.raises(LimitExceeded):
        store.save({"a": np.ones(3), "z": "x" * (65 << 20)}, meta={})
    assert [entry.key for entry in store.backend.list("")] == ["keep.json"]


class Failing(MemoryBackend):
    """A place whose disk is full after so many appended pieces."""

    left = 2

    def writer(self, key, *, size_hint=0):
        writer = super().writer(key, size_hint=size_hint)
        real = writer.append

        def append(data):
            self.left -= 1
            if self.left < 0:
                raise StorageError("no space left")
            return real(data)

        writer.append = append
        return writer


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(save, "SHARD_ENTRIES", 1)  # so that shards are durable already when the disk is full
    threads = threading.active_count()
    store = Store.open(Failing("full-disk"))
    with pytest.raises(StorageError, match="no space left"):
        store.save({str(n): np.full(1_000_000, n) for n in range(20)}, meta={})
    assert [entry.key for entry in store.backend.list("")] == ["keep.json"]
    assert threading.active_count() == threads


class Refusing(MemoryBackend):
    """A place that has no room for records any more, and says so before or after it has made one."""

    after = False
    full = True

    def create(self, key, data):
        refused = self.full and key.startswith(layout.SNAPSHOTS)
        if self.after or not refused:
            super().create(key, data)
        if refused:
            raise StorageError("no space left")


def test_a_record_that_found_no_room_leaves_no_shard_of_its_own(tree):
    store = Store.open(Refusing("no-room-for-records"))
    store.backend.full = False
    donor = store.save(tree, meta={"step": 1})
    before = [entry.key for entry in store.backend.list("")]
    store.backend.full = True
    tree["optimizer"]["iterations"] = np.int64(13)
    with pytest.raises(StorageError, match="no space left"):
        store.save(tree, meta={"step": 2}, donor=donor)
    assert [entry.key for entry in store.backend.list("")] == before
    assert store.load(donor)["optimizer"]["iterations"] == 12


def test_a_record_that_is_there_although_its_durability_is_in_doubt_keeps_its_shards(tree):
    store = Store.open(Refusing("in-doubt"))
    store.backend.after = True
    with pytest.raises(StorageError, match="no space left"):
        store.save(tree, meta={"step": 1})
    (entry,) = store.backend.list(layout.SNAPSHOTS)
    assert differences(tree, store.load(layout.snapshot_of(entry.key))) == []


def test_the_same_state_saved_at_once_is_one_snapshot(backend):
    tree = {"a": np.arange(100_000), "n": 1}
    stores = [Store.open(backend) for _ in range(4)]
    barrier = threading.Barrier(4)

    def save_it(store):
        barrier.wait()
        return store.save(tree, meta={"step": 1})

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        snapshots = list(pool.map(save_it, stores))
    assert len({snapshot.id for snapshot in snapshots}) == 1
    assert differences(tree, stores[0].load(snapshots[0].id)) == []
    assert snapshots[0].shards.keys() == {layout.shard_of(entry.key) for entry in backend.list(layout.SHARDS)}


def test_saves_of_one_store_from_several_threads_do_not_collide(store):
    trees = [{"a": np.full(1000, n)} for n in range(20)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        snapshots = list(pool.map(lambda tree: store.save(tree, meta={}), trees))
    for tree, snapshot in zip(trees, snapshots, strict=True):
        assert differences(tree, store.load(snapshot.id)) == []


def test_pieces_of_a_donor_that_a_collector_has_sentenced_are_written_again(store, tree):
    donor = store.save(tree, meta={"step": 1})
    (shard,) = donor.shards
    from modelkeep.snapshot.canonical import seal

    store.backend.create(layout.condemned_key("9999999998"), seal({"shards": [shard]}))
    snapshot = store.save(tree, meta={"step": 2}, donor=donor)
    assert shard not in snapshot.shards
    assert differences(tree, store.load(snapshot.id)) == []


class Collected(MemoryBackend):
    """A collector deletes a shard at the worst moment: just as a record that reuses it becomes durable."""

    shard = ""

    def create(self, key, data):
        super().create(key, data)
        if self.shard and key.startswith(layout.SNAPSHOTS):
            self.delete(layout.shard_key(self.shard))


def test_pieces_that_are_collected_while_they_are_reused_are_written_again(tree):
    store = Store.open(Collected("collected"))
    donor = store.save(tree, meta={"step": 1})
    (store.backend.shard,) = donor.shards
    snapshot = store.save(tree, meta={"step": 2}, donor=donor)
    assert store.backend.shard not in snapshot.shards
    assert differences(tree, store.load(snapshot.id)) == []


def test_a_twin_that_is_being_collected_is_saved_once_more(store):
    first = store.save({"a": np.ones(9)}, meta={"by": "me"})
    store.backend.delete(layout.shard_key(*first.shards))
    copies = [store.save({"a": np.ones(9)}, meta={"by": "me"})]
    assert copies[0].meta == {"by": "me", "modelkeep.copy": 1}
    store.backend.delete(layout.shard_key(*copies[0].shards))
    copies.append(store.save({"a": np.ones(9)}, meta={"by": "me"}))
    assert copies[1].meta == {"by": "me", "modelkeep.copy": 2}
    assert store.load(copies[1])["a"].tolist() == [1.0] * 9
    assert store.has_snapshot(first.id)  # somebody may count on the record


def test_new_shards_that_a_collector_takes_for_old_ones_are_written_again(tree):
    class Hasty(MemoryBackend):
        """By a clock that has jumped a collector deletes what is new, before its record is there; twice."""

        left = 2

        def create(self, key, data):
            if self.left and key.startswith(layout.SNAPSHOTS):
                self.left -= 1
                self.delete(max(self.list(layout.SHARDS), key=lambda entry: entry.modified).key)
            super().create(key, data)

    store = Store.open(Hasty("hasty"))
    snapshot = store.save(tree, meta={})
    assert not store.backend.left
    assert differences(tree, store.load(snapshot.id)) == []


@pytest.mark.parametrize("early", [True, False])
def test_a_sentence_without_words_means_new_shards_only_where_it_came_after_them(tree, early):
    class Silent(MemoryBackend):
        sentenced = 0

        def create(self, key, data):
            if not early and not self.sentenced and key.startswith(layout.SNAPSHOTS):
                self.sentenced = 1
                super().create(layout.condemned_key("9999999998"), b"")
            super().create(key, data)

    store = Store.open(Silent(f"silent-{early}"))
    if early:
        store.backend.create(layout.condemned_key("9999999998"), b"")
    snapshot = store.save(tree, meta={})
    written = {shard.rpartition("-")[2] for shard in snapshot.shards}
    assert written == ({"1"} if early else {"2"})
    assert differences(tree, store.load(snapshot.id)) == []


def test_arrays_that_the_caller_knows_to_be_unchanged_are_not_read(store, tree, monkeypatch):
    first = store.save(tree, meta={"n": 1})
    changed = {**tree, "model": {**tree["model"], "head": np.arange(9)}}
    paths = frozenset(first.tensors)
    hashed = []
    real = save.digest
    monkeypatch.setattr("modelkeep.store.save.digest", lambda data: hashed.append(len(data)) or real(data))
    second = store.save(changed, meta={"n": 2}, donor=first, unchanged=paths)
    assert [one for one in hashed if one != 4096] == [72]  # beside the shard's header
    monkeypatch.undo()
    assert not differences(store.load(second), changed)
    assert second.state_digest == store.save(changed, meta={"n": 3}).state_digest


def test_a_script_that_ends_while_a_large_state_is_being_saved_has_it_saved(tmp_path):
    script = """
import sys, numpy as np, modelkeep as mk
run = mk.open(sys.argv[1]).run("r", capture=False)
run.save({"w": np.arange(12 << 20, dtype="f4")}, step=1, epoch=0)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "keep")], check=True)
    keep = mk.open(tmp_path / "keep")
    assert keep.load_state("r@last")["w"][-1] == (12 << 20) - 1


def test_a_record_that_a_collection_takes_while_the_state_is_saved_again_is_made_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {"w": np.arange(6.0)}
    first, create = store.save(tree, meta={}), store.backend.create

    def taken(key: str, data: bytes) -> None:
        if key != layout.snapshot_key(first.id):
            create(key, data)
            return
        monkeypatch.undo()
        try:
            create(key, data)
        finally:
            store.backend.delete(key)  # between the refusal and the look at what is there

    monkeypatch.setattr(store.backend, "create", taken)
    again = store.save(tree, meta={})
    assert again.id == first.id
    assert np.array_equal(store.load(again)["w"], tree["w"])
    assert store.has_snapshot(first.id)
