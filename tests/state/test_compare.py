import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from modelkeep.state import differences

from .states import trees


@given(trees())
def test_a_state_does_not_differ_from_itself(tree):
    assert differences(tree, tree) == []


def test_a_line_names_path_dtype_shape_count_and_size():
    a = np.zeros((3, 4), np.float32)
    b = a.copy()
    b[0, 0], b[2, 3] = 1.5, -0.0
    assert differences({"weights": {"dense": {"kernel": a}}}, {"weights": {"dense": {"kernel": b}}}) == [
        "weights/dense/kernel: float32 [3,4], 2 of 12 values differ, largest difference 1.5"
    ]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.float32([0.0]), np.float32([-0.0])),
        (np.array([0x7FC00000], "u4").view("f4"), np.array([0x7FC00001], "u4").view("f4")),
        (np.zeros(2, "i4"), np.zeros(2, "u4")),
        (np.zeros((2, 1)), np.zeros((1, 2))),
        (np.zeros(2, ml_dtypes.bfloat16), np.zeros(2, np.float16)),
        (np.array(["a"], object), np.array([b"a"], object)),
        (np.array(["a"], object), np.array(["b"], object)),
        (np.array(["a"]), np.array(["b"])),
        (np.datetime64(1, "s"), np.datetime64(1, "ms")),
        (np.complex64([1 + 2j]), np.complex64([1 + 3j])),
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ("1", 1),
        (b"1", "1"),
        ([1], (1,)),
        ({3: 1}, {"3": 1}),
        (None, {}),
        ([1], [1, 2]),
    ],
)
def test_what_differs_in_a_bit_or_a_type_is_told(a, b):
    assert len(differences({"x": a}, {"x": b})) >= 1


def test_byte_order_and_layout_are_no_difference():
    array = np.arange(6, dtype=">i4").reshape(2, 3)
    assert differences([array], [np.asfortranarray(array.astype("<i4"))]) == []


def test_more_differences_than_the_limit_are_counted():
    lines = differences({str(n): n for n in range(30)}, {str(n): -n for n in range(30)}, limit=5)
    assert len(lines) == 6
    assert lines[-1] == "and 24 more differences"
