import json
import os

import ml_dtypes
import numpy as np
import pytest

from modelkeep.backend import MemoryBackend
from modelkeep.errors import Damaged, LimitExceeded, ModelkeepError, NotFound, StateMismatch
from modelkeep.snapshot.canonical import seal
from modelkeep.snapshot.dtypes import TEXTS
from modelkeep.snapshot.pieces import digest
from modelkeep.state import differences, flatten
from modelkeep.state.memory import ALIGNMENT
from modelkeep.store import Store, layout


class Torn(MemoryBackend):
    """A place whose bytes can be changed, and that counts what is read."""

    def __init__(self, name):
        super().__init__(name)
        self.count = 0

    def tear(self, key, change):
        data, modified = self._place.objects[key]
        self._place.objects[key] = (bytes(change(bytearray(data))), modified)

    def read_into(self, key, start, buffer):
        self.count += len(buffer)
        super().read_into(key, start, buffer)


@pytest.fixture
def torn(request):
    return Store.open(Torn(request.node.name))


def flip(place, bit=0):
    def change(data):
        data[place] ^= 1 << bit
        return data

    return change


def shard_of(store):
    (entry,) = store.backend.list(layout.SHARDS)
    return entry


SMALL = {
    "weights": np.arange(12, dtype="f4"),
    "bias": np.full(3, 7, "u1"),
    "texts": np.array(["x", "yz"], object),
    "n": 1,
}


def test_every_flipped_bit_of_a_shard_is_named_by_tensor_and_file(torn):
    snapshot = torn.save(SMALL, meta={})
    entry = shard_of(torn)
    for place in [*range(0, 4096, 97), *range(4096, entry.size)]:
        torn.backend.tear(entry.key, flip(place, place % 8))
        with pytest.raises(Damaged) as caught:
            torn.load(snapshot)
        assert caught.value.key == entry.key
        named = [name for name in ("weights", "bias", "texts") if name in str(caught.value)]
        assert len(named) == (3 if place < 4096 else 1)
        torn.backend.tear(entry.key, flip(place, place % 8))
    assert differences(SMALL, torn.load(snapshot)) == []


def test_every_flipped_bit_of_a_record_is_named_by_file(torn):
    snapshot = torn.save(SMALL, meta={})
    key = layout.snapshot_key(snapshot.id)
    for place in range(torn.backend.size(key)):
        torn.backend.tear(key, flip(place, place % 8))
        with pytest.raises(ModelkeepError, match=key):
            torn.load(snapshot.id)
        torn.backend.tear(key, flip(place, place % 8))


def test_all_damage_is_named_at_once(torn, tree):
    tree = {f"w{n}": np.full(1000, n) for n in range(4)}
    snapshot = torn.save(tree, meta={})
    entry = shard_of(torn)
    for n in (1, 3):
        torn.backend.tear(entry.key, flip(entry.size - 8000 * (4 - n)))
    with pytest.raises(Damaged, match=r"the bytes of w1, w3 are not those"):
        torn.load(snapshot)


def test_a_piece_that_two_tensors_share_damages_both(torn):
    snapshot = torn.save({"tied": np.arange(9), "embedding": np.arange(9)}, meta={})
    entry = shard_of(torn)
    torn.backend.tear(entry.key, flip(entry.size - 1))
    with pytest.raises(Damaged, match="embedding, tied"):
        torn.load(snapshot)


@pytest.mark.parametrize("length", [0, 7, 8, 100, 4096, 4100, -1])
def test_a_torn_shard_is_reported_and_not_loaded(torn, length):
    snapshot = torn.save(SMALL, meta={})
    entry = shard_of(torn)
    torn.backend.tear(entry.key, lambda data: data[:length])
    with pytest.raises(Damaged, match="bias, texts, weights") as caught:
        torn.load(snapshot)
    assert caught.value.key == entry.key


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_torn_record_is_reported_and_not_loaded(torn, length):
    snapshot = torn.save(SMALL, meta={})
    key = layout.snapshot_key(snapshot.id)
    torn.backend.tear(key, lambda data: data[:length])
    with pytest.raises(Damaged) as caught:
        torn.load(snapshot.id)
    assert caught.value.key == key


def test_a_shard_that_is_gone_is_damage_that_names_the_tensors(store):
    snapshot = store.save(SMALL, meta={})
    store.backend.delete(shard_of(store).key)
    with pytest.raises(Damaged, match=r"bias, texts, weights .*there is no object"):
        store.load(snapshot)


def test_one_record_under_the_name_of_another_is_damage(torn):
    one, other = torn.save({"a": 1}, meta={}), torn.save({"a": 2}, meta={})
    wrong = torn.backend.read(layout.snapshot_key(other.id))
    torn.backend.tear(layout.snapshot_key(one.id), lambda data: wrong)
    with pytest.raises(Damaged, match="another's name"):
        torn.load(one.id)


def test_a_snapshot_that_is_not_there_is_not_found(store):
    with pytest.raises(NotFound, match="no snapshot 000"):
        store.load("0" * 64)


def test_a_part_reads_only_its_own_pieces(torn, tree):
    snapshot = torn.save(tree, meta={})
    part = torn.load(snapshot, select=["model/dense/bias", "rng/**"])
    assert differences(part, {"model": {"dense": {"bias": tree["model"]["dense"]["bias"]}}, "rng": tree["rng"]}) == []
    assert torn.backend.count == 4000


def test_a_part_loads_where_another_part_is_damaged(torn):
    snapshot = torn.save(SMALL, meta={})
    entry = shard_of(torn)
    torn.backend.tear(entry.key, flip(4096 + 47))
    bad = "weights" if torn_is(torn, snapshot, "weights") else "texts"
    good = [name for name in SMALL if name != bad]
    assert sorted(torn.load(snapshot, select=good)) == sorted(good)


def torn_is(store, snapshot, name):
    try:
        store.load(snapshot, select=[name])
    except Damaged:
        return True
    return False


def test_a_pattern_that_matches_nothing_is_not_found(store):
    snapshot = store.save(SMALL, meta={})
    with pytest.raises(NotFound, match=r"'weight' matches nothing.*weights"):
        store.load(snapshot, select=["weight"])


def test_a_state_over_the_budget_is_refused_before_it_is_read(torn):
    snapshot = torn.save({"a": np.zeros(1000), "b": np.zeros(10)}, meta={})
    with pytest.raises(LimitExceeded, match=r"holds 8.1 kB of arrays, more than 8.0 kB"):
        torn.load(snapshot, limit_bytes=8000)
    assert torn.backend.count == 0
    assert torn.load(snapshot, select=["b"], limit_bytes=100)["b"].shape == (10,)


def forged(store, snapshot, change):
    """A record that is changed and sealed again, as an attacker would."""
    record = json.loads(store.backend.read(layout.snapshot_key(snapshot.id)))
    record.pop("digest")
    change(record)
    from modelkeep.snapshot.canonical import canonical_json

    record["id"] = digest(canonical_json(record["logical"]))
    store.backend.create(layout.snapshot_key(record["id"]), seal(record))
    return record["id"]


def test_a_forged_record_of_a_huge_array_allocates_nothing(store):
    snapshot = store.save({"a": np.zeros(4, "u1")}, meta={})
    (piece,) = snapshot.tensors["a"].pieces

    def change(record):
        record["logical"]["tensors"]["a"] |= {"shape": [1 << 45], "piece_rows": 1 << 45}
        record["pieces"][piece][2] = 1 << 45
        (shard,) = record["shards"].values()
        shard["size"] = 1 << 46

    with pytest.raises(LimitExceeded):
        store.load(forged(store, snapshot, change))
    with pytest.raises(Damaged, match="and 70368744177664 were written"):
        store.load(
            forged(store, snapshot, lambda record: (change(record), record["logical"]["meta"].update(a=1))),
            limit_bytes=1 << 60,
        )


def test_a_forged_record_that_repeats_a_piece_is_held_to_the_budget(store):
    snapshot = store.save({"a": np.zeros((1 << 20,), "f4")}, meta={})

    def change(record):
        tensor = record["logical"]["tensors"]["a"]
        tensor["pieces"] = tensor["pieces"] * 10_000
        tensor["shape"] = [(1 << 20) * 10_000]

    with pytest.raises(LimitExceeded, match=r"41\.9 GB"):
        store.load(forged(store, snapshot, change), limit_bytes=1 << 34)


def test_a_forged_stream_of_texts_is_damage_that_names_its_tensor(store):
    stream = np.frombuffer(b"\x09" + bytes(7) + b"ab", "u1")
    snapshot = store.save({"a": stream}, meta={})

    def change(record):
        record["logical"]["tensors"]["a"] |= {"dtype": "str", "shape": [1]}

    with pytest.raises(Damaged, match="the bytes of a "):
        store.load(forged(store, snapshot, change))


def test_a_keep_that_was_copied_elsewhere_reads_the_same(local_store, tree, tmp_path):
    import shutil

    from modelkeep.backend import LocalBackend

    snapshot = local_store.save(tree, meta={})
    shutil.copytree(tmp_path / "keep", tmp_path / "copy")
    assert differences(tree, Store.open(LocalBackend(tmp_path / "copy")).load(snapshot.id)) == []


def test_shards_and_records_are_read_only_files(local_store, tree):
    snapshot = local_store.save(tree, meta={})
    folder = local_store.backend.url.removeprefix("file://")
    for key in (layout.snapshot_key(snapshot.id), *map(layout.shard_key, snapshot.shards)):
        assert os.stat(f"{folder}/{key}").st_mode & 0o777 == 0o444


def test_arrays_lie_where_a_framework_can_take_them_over(store):
    state = {"matrix": np.ones((1000, 7), "f4"), "half": np.ones(5, ml_dtypes.bfloat16), "none": np.ones((0, 3))}
    for array in flatten(store.load(store.save(state, meta={}))).arrays.values():
        assert array.ctypes.data % ALIGNMENT == 0 or not array.nbytes
        assert array.flags.carray


def test_a_state_is_read_into_arrays_that_are_there(torn, tree):
    snapshot = torn.save(tree, meta={})
    fixed = [path for path, spec in snapshot.tensors.items() if spec.dtype not in TEXTS]
    live = torn.load(snapshot, select=fixed)
    targets = dict(flatten(live).arrays)
    assert any(array.ndim for array in targets.values())
    for array in targets.values():
        if array.flags.writeable:  # scalars of numpy are not
            array[...] = np.zeros((), array.dtype)
    loaded = torn.load(snapshot, select=fixed, into=live)
    assert differences(torn.load(snapshot, select=fixed), loaded) == []
    for path, array in flatten(loaded).arrays.items():
        assert array is targets[path] or not targets[path].flags.writeable


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (None, "nothing is there"),
        (np.zeros((3, 2), "f4"), r"float32 \[2, 3\] is kept, and the array is float32 \[3, 2\]"),
        (np.zeros((2, 3), "f8"), "and the array is float64"),
        (np.zeros((3, 2), "f4").T, "C-contiguous"),
        (np.zeros((2, 3), ">f4"), "byte order"),
        (np.broadcast_to(np.float32(0), (2, 3)), "read-only"),
    ],
)
def test_arrays_that_do_not_fit_are_listed_and_nothing_is_read(torn, array, told):
    snapshot = torn.save({"weights": np.ones((2, 3), "f4"), "bias": np.ones(3)}, meta={})
    bias = np.zeros(3)
    into = {"bias": bias} if array is None else {"bias": bias, "weights": array}
    with pytest.raises(StateMismatch, match=told) as caught:
        torn.load(snapshot, into=into)
    assert "weights" in str(caught.value)
    assert torn.backend.count == 0
    assert not bias.any()


def test_damage_is_named_also_where_it_is_read_into_arrays_that_are_there(torn):
    snapshot = torn.save({"weights": np.ones(1000)}, meta={})
    torn.backend.tear(layout.shard_key(*snapshot.shards), flip(-1))
    with pytest.raises(Damaged, match="weights"):
        torn.load(snapshot, into={"weights": np.zeros(1000)})
