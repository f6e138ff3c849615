import io
import zipfile

import ml_dtypes
import numpy as np
import pytest

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, UnknownFormat, Unsafe
from modelkeep.importers import open_weights

KINDS = [
    "?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16", ">f4", ">i8", "<U3",
    "S5", "<M8[ns]", "<m8[s]",
]  # fmt: skip


def arrays():
    rng = np.random.default_rng(5)
    found = {f"kind {n}": rng.integers(0, 2, (2, 3)).astype(kind) for n, kind in enumerate(KINDS)}
    base = rng.random((4, 5, 6), np.float32)
    more = {
        "fortran": np.asfortranarray(base),
        "view": base[::2, :, 1],
        "scalar": np.float64(3),
        "empty": np.zeros((0, 4)),
    }
    return found | more


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_kind_of_array_is_what_numpy_loads(tmp_path, save):
    save(tmp_path / "x.npz", **arrays())
    weights = open_weights(tmp_path / "x.npz")
    assert weights.format == "npz"
    with np.load(tmp_path / "x.npz") as wanted:
        assert list(weights.tensors) == list(wanted)
        for name in wanted:
            array = weights.tensors[name].read()
            assert array.shape == weights.tensors[name].shape == wanted[name].shape
            assert array.flags.c_contiguous
            assert array.tobytes() == wanted[name].astype(wanted[name].dtype.newbyteorder("<")).tobytes(), name


@pytest.mark.parametrize("name", ["fortran", "kind 14", "scalar", "empty"])
def test_a_single_array_is_read(tmp_path, name):
    np.save(tmp_path / "x.npy", arrays()[name])
    tensor = open_weights(tmp_path / "x.npy").tensors["array"]
    wanted = np.load(tmp_path / "x.npy")
    assert tensor.read().tobytes() == wanted.astype(wanted.dtype.newbyteorder("<")).tobytes()


def test_a_flipped_bit_is_damage(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.ones(1000))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[4000] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(Damaged, match="checksum"):
        open_weights(tmp_path / "x.npz").tensors["w"].read()


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(Unsafe, match="unpickle"):
        open_weights(tmp_path / "x.npy")


def test_kinds_whose_name_numpy_drops_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(3, ml_dtypes.bfloat16))
    with pytest.raises(UnknownFormat, match="bfloat16"):
        open_weights(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.zeros(3, [("a", "f4")]))
    with pytest.raises(UnknownFormat):
        open_weights(tmp_path / "x.npy")


def test_a_bomb_is_compared_with_the_budget_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", w=np.zeros(1 << 24))
    with pytest.raises(LimitExceeded):
        open_weights(tmp_path / "x.npz", Budget(nbytes=1 << 20))


def test_other_members_are_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a.txt", "x")
    (tmp_path / "x.npz").write_bytes(file.getvalue())
    with pytest.raises(UnknownFormat, match=r"a\.txt"):
        open_weights(tmp_path / "x.npz")
