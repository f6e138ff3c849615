"""What a state that does not fit is told."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modelkeep.errors import StateMismatch
from modelkeep.frameworks.mismatch import Fit, Path, Spec, check

FIT = Fit("this model", "build it as it was")
LENIENT = Fit("this model", "build it as it was", integers=True)
F4 = np.dtype("float32")


def test_all_problems_are_told_at_once_but_not_more_than_twenty():
    wanted: dict[Path, Spec] = {("layer", str(n) + "k"): Spec(F4, (n + 1,)) for n in range(23)}
    with pytest.raises(StateMismatch) as error:
        check(wanted, {("other",): np.zeros(2)}, FIT)
    lines = str(error.value).splitlines()
    assert lines[0] == "the state does not fit this model, and nothing was changed; build it as it was:"
    assert lines[1] == "  layer/0k: wanted float32 [1], not in the state"
    assert len(lines) == 22
    assert lines[-1] == "  and 4 more"


def test_a_wrong_dtype_shape_or_kind_is_told_with_both_sides():
    wanted: dict[Path, Spec] = {
        ("a",): Spec(F4, (2,)),
        ("b",): Spec(F4, (2,)),
        ("c",): Spec(F4, (2,)),
        ("d",): Spec(F4, ()),
    }
    found: dict[Path, Any] = {
        ("a",): np.zeros(2, ml_dtypes.bfloat16),
        ("b",): np.zeros((2, 1), "f4"),
        ("c",): [0, 0],
        ("d",): 1.0,
    }
    with pytest.raises(StateMismatch) as error:
        check(wanted, found, FIT)
    assert str(error.value).splitlines()[1:] == [
        "  a: wanted float32 [2], found bfloat16 [2]",
        "  b: wanted float32 [2], found float32 [2, 1]",
        "  c: wanted float32 [2], found list (not an array)",
        "  d: wanted float32 [], found float (not an array)",
    ]


def test_a_name_that_holds_a_slash_is_written_as_paths_are():
    with pytest.raises(StateMismatch, match="a%2Fb/%33/3: wanted"):
        check({("a/b", "3", 3): Spec(F4, ())}, {}, FIT)


def test_integers_change_width_only_when_asked_and_only_where_every_value_survives():
    wanted: dict[Path, Spec] = {("n",): Spec(np.dtype("int32"), (2,))}
    found: dict[Path, Any] = {("n",): np.array([-5, 2**31 - 1], "int64")}
    assert check(wanted, found, LENIENT)[("n",)].dtype == "int32"
    with pytest.raises(StateMismatch, match=r"found int64 \[2\]"):
        check(wanted, found, FIT)
    with pytest.raises(StateMismatch, match="values that int32 cannot hold"):
        check(wanted, {("n",): np.array([0, 2**31], "int64")}, LENIENT)
    for other in (np.zeros(2, "float32"), np.zeros(2, bool)):
        with pytest.raises(StateMismatch):
            check(wanted, {("n",): other}, LENIENT)


def test_numpy_scalars_and_foreign_byte_orders_fit():
    arrays = check({("n",): Spec(np.dtype("<f8"), ())}, {("n",): np.float64(0.5)}, FIT)
    assert arrays[("n",)] == 0.5
    arrays = check({("n",): Spec(F4, (1,))}, {("n",): np.array([1.5], ">f4")}, FIT)
    assert arrays[("n",)].dtype == F4
    assert arrays[("n",)].tolist() == [1.5]
