import json
import tracemalloc

import numpy as np
import pytest

from modelkeep.errors import Damaged, LimitExceeded, ModelkeepError, UnknownFormat
from modelkeep.snapshot import Place, ShardInfo, Snapshot, TensorSpec
from modelkeep.snapshot.canonical import canonical_json, seal
from modelkeep.snapshot.dtypes import logical_name
from modelkeep.snapshot.pieces import cut, digest, grid
from modelkeep.state import differences, flatten, unflatten

SHARD = "0123456789abcdef-0"
TREE = {
    "model": {"kernel": np.arange(6, dtype="f4").reshape(2, 3), "names": np.array(["a", "bc"], object)},
    "empty": np.zeros((0, 4), "i8"),
    "epoch": 3,
}


def snapshot_of(tree, meta=None):
    """A record of ``tree`` as a store would make it, its pieces all in one shard."""
    flat = flatten(tree)
    tensors, places = {}, {}
    for path, array in flat.arrays.items():
        pieces = [(digest(piece.data), len(piece.data)) for piece in cut(array)]
        rows = 4 << 20 if array.dtype.kind == "O" else grid(array.shape, array.dtype.itemsize).piece_rows
        tensors[path] = TensorSpec(logical_name(array), array.shape, rows, tuple(name for name, _ in pieces))
        places |= {name: Place(SHARD, path, size) for name, size in pieces}
    shards = {SHARD: ShardInfo(9000, digest(b"h"))} if places else {}
    return Snapshot.of(flat.structure, tensors, meta or {}, shards, places)


def test_a_record_comes_back_as_it_was():
    snapshot = snapshot_of(TREE, {"step": 7, "metrics": {"loss": 0.5}})
    assert Snapshot.from_json(snapshot.to_json(), "k") == snapshot


def test_a_record_is_the_one_of_the_format():
    snapshot = snapshot_of({"w": np.float32([1, 2]), "n": 1}, {"step": 7})
    assert snapshot.to_json().decode() == (
        '{"digest":"7e34d1c526190396454a4041f55e618f2bc62b18359e73b318cf2cbe14d7c93a","id":"6262d38a42e4ba053'
        'd4e85a0e71dede9bd8e733115fb4755ec357d6f6b678001","logical":{"meta":{"step":7},"tensors":{"w":{"dtype'
        '":"float32","piece_rows":1048576,"pieces":["83376e7b4f6f582dcb75e173caef357ad07daba8f7d086eb4ee23fb8'
        'd699f138"],"shape":[2]}},"tree":{"n":1,"w":{"$":"tensor"}}},"modelkeep":1,"pieces":{"83376e7b4f6f582'
        'dcb75e173caef357ad07daba8f7d086eb4ee23fb8d699f138":["0123456789abcdef-0","w",8]},"shards":{"01234567'
        '89abcdef-0":{"header":"c3af7b114121534b19203c45ca316c944a90c067bba3dcf1e5625d1273030874","size":9000'
        "}}}"
    )


def test_the_id_depends_on_what_was_saved_and_not_on_where():
    one = snapshot_of(TREE)
    moved = {name: Place("f" * 16 + "-3", place.key, place.nbytes) for name, place in one.places.items()}
    other = Snapshot.of(one.structure, one.tensors, one.meta, {"f" * 16 + "-3": ShardInfo(9000, digest(b"x"))}, moved)
    assert other.id == one.id
    assert snapshot_of(TREE, {"step": 1}).id != one.id
    assert snapshot_of(TREE, {"step": 1}).state_digest == one.state_digest
    assert snapshot_of({**TREE, "epoch": 4}).state_digest != one.state_digest


def test_a_snapshot_shows_itself_without_running_what_is_in_it():
    snapshot = snapshot_of({"<script>": np.zeros(3)}, {"<b>": "<i>"})
    assert repr(snapshot) == f"Snapshot({snapshot.short}…, 1 tensors, 24 B)"
    shown = snapshot._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert "<b>" not in shown


def document():
    """A valid record as plain JSON, without its seal."""
    found = json.loads(snapshot_of(TREE).to_json())
    found.pop("digest")
    return found


def sealed(found):
    """The record with id and seal made right, as an attacker would."""
    if isinstance(found.get("logical"), dict):
        found["id"] = digest(canonical_json(found["logical"]))
    return seal(found)


def set_in(*path):
    *where, value = path

    def change(found):
        node = found
        for name in where[:-1]:
            node = node[name]
        node[where[-1]] = value

    change.__name__ = "/".join(map(str, path))[:60]
    return change


KERNEL = ("logical", "tensors", "model/kernel")
PIECE = snapshot_of(TREE).tensors["model/kernel"].pieces[0]
NAMES = snapshot_of(TREE).tensors["model/names"].pieces[0]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (set_in("modelkeep", 2), UnknownFormat),
        (set_in("modelkeep", True), UnknownFormat),
        (set_in("more", 2), Damaged),
        (set_in("logical", 2), Damaged),
        (set_in("logical", "meta", [1]), Damaged),
        (set_in("logical", "more", 1), Damaged),
        (set_in("logical", "tree", {}), Damaged),
        (set_in("logical", "tree", "more", {"$": "tensor"}), Damaged),
        (set_in("logical", "tensors", []), Damaged),
        (set_in(*KERNEL, []), Damaged),
        (set_in(*KERNEL, "dtype", "pickle"), UnknownFormat),
        (set_in(*KERNEL, "dtype", 3), Damaged),
        (set_in(*KERNEL, "dtype", "float64"), Damaged),
        (set_in(*KERNEL, "dtype", "str"), Damaged),
        (set_in(*KERNEL, "shape", [1 << 40, 1 << 40]), LimitExceeded),
        (set_in(*KERNEL, "shape", [0, 1 << 40, 1 << 40]), LimitExceeded),
        (set_in(*KERNEL, "shape", [1 << 62]), LimitExceeded),
        (set_in(*KERNEL, "shape", [1] * 65), LimitExceeded),
        (set_in(*KERNEL, "shape", [1 << 40]), Damaged),
        (set_in(*KERNEL, "shape", [-2, -3]), Damaged),
        (set_in(*KERNEL, "shape", [2.0, 3]), Damaged),
        (set_in(*KERNEL, "shape", [True, 6]), Damaged),
        (set_in(*KERNEL, "shape", 6), Damaged),
        (set_in(*KERNEL, "piece_rows", 0), Damaged),
        (set_in(*KERNEL, "piece_rows", 1), Damaged),
        (set_in(*KERNEL, "piece_rows", None), Damaged),
        (set_in(*KERNEL, "pieces", []), Damaged),
        (set_in(*KERNEL, "pieces", [PIECE, PIECE]), Damaged),
        (set_in(*KERNEL, "pieces", [PIECE.upper()]), Damaged),
        (set_in(*KERNEL, "pieces", ["0" * 64]), Damaged),
        (set_in(*KERNEL, "pieces", [3]), Damaged),
        (set_in("logical", "tensors", "model/names", "shape", [3]), Damaged),
        (set_in("logical", "tensors", "model/names", "shape", [0]), Damaged),
        (set_in("pieces", "0" * 64, [SHARD, "x", 3]), Damaged),
        (set_in("pieces", PIECE, [SHARD, "x"]), Damaged),
        (set_in("pieces", PIECE, ["f" * 16 + "-1", "x", 24]), Damaged),
        (set_in("pieces", PIECE, [SHARD, "x", 23]), Damaged),
        (set_in("pieces", PIECE, [SHARD, "x", -24]), Damaged),
        (set_in("pieces", NAMES, [SHARD, "x", 15]), Damaged),
        (set_in("shards", SHARD, "size", 20), Damaged),
        (set_in("shards", SHARD, "header", "x"), Damaged),
        (set_in("shards", SHARD, 3), Damaged),
        (set_in("shards", "../../etc/passwd", {"size": 1, "header": PIECE}), Damaged),
        (set_in("shards", "f" * 16 + "-9", {"size": 1, "header": PIECE}), Damaged),
    ],
)
def test_a_hostile_record_is_a_typed_error_and_allocates_nothing(change, error):
    found = document()
    change(found)
    data = sealed(found)
    tracemalloc.start()
    with pytest.raises(error, match="snapshots/x"):
        Snapshot.from_json(data, "snapshots/x")
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_a_record_under_another_id_is_damage():
    found = document()
    found["id"] = "0" * 64
    with pytest.raises(Damaged, match="the record says"):
        Snapshot.from_json(seal(found), "k")


def test_every_flipped_bit_of_a_record_is_damage():
    data = snapshot_of(TREE).to_json()
    for place in range(len(data)):
        torn = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
        with pytest.raises(ModelkeepError):
            Snapshot.from_json(torn, "k")


@pytest.mark.parametrize("wrap", [lambda tree: {3: tree}, lambda tree: (tree,), lambda tree: [tree]])
def test_a_tree_of_64_levels_can_be_read_again(wrap):
    tree = 1j
    for _ in range(64):
        tree = wrap(tree)
    structure = Snapshot.from_json(snapshot_of(tree).to_json(), "k").structure
    assert differences(unflatten(structure, {}), tree) == []


def test_a_state_too_large_for_a_record_is_refused_when_saved():
    with pytest.raises(LimitExceeded, match="keep large texts"):
        snapshot_of({"text": "x" * (65 << 20)}).to_json()
