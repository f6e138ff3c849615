"""What a person gives is made into what the model takes, or refused with what is wanted and what was found."""

import json
from pathlib import Path

import numpy as np
import pytest

from modelkeep.errors import Damaged, LimitExceeded, NotFound, UsageError
from modelkeep.model.signature import Signature, TensorInfo
from modelkeep.runtime import inputs
from modelkeep.runtime.inputs import conform, read_inputs

OUT = TensorInfo("y", "float32", (None, 1))
ONE = Signature(TensorInfo("x", "float32", (None, 3)), OUT)
TWO = Signature({"a": TensorInfo("a", "float32", (None, 2)), "n": TensorInfo("n", "int32", (None,))}, OUT)
TEXT = Signature(TensorInfo("t", "string", (None,)), OUT)
PICTURE = Signature(TensorInfo("image", "float32", (None, 2, 3, 3)), OUT)


@pytest.mark.parametrize(
    "value",
    [np.ones((2, 3), "f4"), np.ones((2, 3)), [[1, 1, 1]] * 2, np.ones((2, 3), "i8"), {"x": [[1, 1, 1]] * 2}],
)
def test_one_input(value) -> None:
    found = conform(value, ONE)
    assert found.dtype == "float32"
    assert np.array_equal(found, np.ones((2, 3)))


def test_the_right_array_is_passed_as_it_is() -> None:
    given = np.ones((2, 3), "float32")
    assert conform(given, ONE) is given


def test_several_inputs_by_name_or_in_order() -> None:
    for value in ({"a": [[1, 2]], "n": [3]}, [[[1, 2]], [3]]):
        found = conform(value, TWO)
        assert found["a"].dtype == "float32"
        assert found["n"].dtype == "int32"


@pytest.mark.parametrize(
    ("value", "signature", "told"),
    [
        ([[1, 2]], ONE, r"x is of shape \[1, 2\], and x: float32 \[\?, 3\] is wanted"),
        ([["a", "b", "c"]], ONE, r"x: x: float32 \[\?, 3\] is wanted, and <U1 was given"),
        ([[1, 2, 3], [1]], ONE, "no array can be made of it"),
        ([[1, 2, float("nan")]], ONE, r"x holds 1 NaN of 3 values; mend the data, or pass allow_nan=True"),
        ({"a": [[1, 2]]}, TWO, "n is missing"),
        ({"a": [[1, 2]], "n": [1], "m": 2}, TWO, "m is not known"),
        ({"a": [[1, 2]], "n": [1.5]}, TWO, r"int32 \[\?\] is wanted, and float64 was given, which does not fit"),
        ({"a": [[1, 2]], "n": [1 << 40]}, TWO, "does not fit"),
        ([[1, 2]], TWO, "give a dict of them, or a list of 2"),
        ([1], TEXT, "text is wanted"),
    ],
)
def test_what_does_not_fit_is_refused(value, signature: Signature, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        conform(value, signature)


def test_nan_can_be_meant_and_infinity_is_no_nan() -> None:
    assert np.isnan(conform([[1, 2, np.nan]], ONE, allow_nan=True)).any()
    assert np.isinf(conform([[1, np.inf, -np.inf]], ONE)).sum() == 2


def test_files(tmp_path: Path) -> None:
    x = np.arange(6, dtype="float32").reshape(2, 3)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", a=[[1.0, 2.0]], n=[3])
    (tmp_path / "x.json").write_text(json.dumps(x.tolist()))
    (tmp_path / "instances.json").write_text(json.dumps({"instances": x.tolist()}))
    (tmp_path / "rows.json").write_text(json.dumps({"instances": [{"a": [1, 2], "n": 3}, {"a": [4, 5], "n": 6}]}))
    (tmp_path / "x.csv").write_text("0,1,2\n3,4,5\n")
    (tmp_path / "headed.csv").write_text("one,two,three\n0,1,2\n3,4,5\n")
    (tmp_path / "x.txt").write_text("red\nblue\n")
    (tmp_path / "t.csv").write_text("t\nred\nblue\n")
    for name in ("x.npy", "x.json", "instances.json", "x.csv", "headed.csv"):
        assert np.array_equal(conform(read_inputs(tmp_path / name, ONE), ONE), x), name
    assert conform(read_inputs(tmp_path / "x.npz", TWO), TWO)["n"].tolist() == [3]
    assert conform(read_inputs(tmp_path / "rows.json", TWO), TWO)["n"].tolist() == [3, 6]
    for name in ("x.txt", "t.csv"):
        assert conform(read_inputs(tmp_path / name, TEXT), TEXT).tolist() == ["red", "blue"]


def test_a_picture(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.arange(18, dtype="u1").reshape(2, 3, 3)).save(tmp_path / "p.png")
    found = conform(read_inputs(tmp_path / "p.png", PICTURE), PICTURE)
    assert found.shape == (1, 2, 3, 3)
    assert found.max() == 17
    image.fromarray(np.zeros((5, 4, 3), "u1")).save(tmp_path / "large.png")
    with pytest.raises(UsageError, match=r"large.png is 4 x 5, and the model takes 3 x 2"):
        read_inputs(tmp_path / "large.png", PICTURE)
    (tmp_path / "none.png").write_bytes(b"no picture")
    with pytest.raises(Damaged, match="no picture that Pillow reads"):
        read_inputs(tmp_path / "none.png", PICTURE)
    with pytest.raises(UsageError, match="the model takes no picture"):
        read_inputs(tmp_path / "p.png", ONE)


def test_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.npy").write_bytes(b"\x80\x04")
    (tmp_path / "bad.csv").write_text("1,2,3\n4,x,6\n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    (tmp_path / "x.exe").write_bytes(b"")
    for name, told in (
        ("bad.json", "no JSON"), ("bad.npy", "numpy cannot read it"),
        ("bad.csv", "row 2: 3 numbers are wanted, not 4,x,6"),
        ("latin.txt", "no UTF-8"),
    ):  # fmt: skip
        with pytest.raises(Damaged, match=told):
            read_inputs(tmp_path / name, ONE)
    with pytest.raises(NotFound, match="there is no file"):
        read_inputs(tmp_path / "gone.npy", ONE)
    with pytest.raises(UsageError, match=r"\.npy, \.npz"):
        read_inputs(tmp_path / "x.exe", ONE)
    monkeypatch.setattr(inputs, "MOST_BYTES", 0)
    with pytest.raises(LimitExceeded):
        read_inputs(tmp_path / "bad.csv", ONE)
