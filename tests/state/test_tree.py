import collections
import enum
import json
import struct
import typing

import numpy as np
import pytest
from hypothesis import given, settings

from modelkeep.errors import Damaged, NotFound, UnknownFormat, UnsupportedState
from modelkeep.state import differences, flatten, select, tensor_paths, unflatten

from .states import SCALARS, trees


@given(trees())
@settings(max_examples=300)
def test_a_tree_comes_back_from_its_flat_form_bit_for_bit(tree):
    flat = flatten(tree)
    structure = json.loads(json.dumps(flat.structure, allow_nan=False))
    back = unflatten(structure, flat.arrays)
    assert differences(tree, back) == []
    assert type(back) is type(tree) or isinstance(tree, np.generic)


@given(SCALARS)
def test_a_json_value_keeps_its_type_and_its_bits(value):
    back = unflatten(json.loads(json.dumps(flatten([value]).structure, allow_nan=False)), {})[0]
    assert type(back) is type(value)
    if isinstance(value, float):
        assert struct.pack("<d", back) == struct.pack("<d", value)
    elif isinstance(value, complex):
        assert struct.pack("<dd", back.real, back.imag) == struct.pack("<dd", value.real, value.imag)
    else:
        assert back == value


def test_the_structure_is_written_as_the_format_says():
    tree = {
        "b": [1, 1.0, None, True, "é", -0.0],
        "a": (np.zeros(2),),
        "n": {3: "three", "$k": 2**60},
        "x": [b"ab", float("inf"), 1j],
    }
    flat = flatten(tree)
    assert flat.structure == {
        "a": {"$": "tuple", "items": [{"$": "tensor"}]},
        "b": [1, 1.0, None, True, "é", -0.0],
        "n": {"$": "dict", "items": [[3, "three"], ["$k", {"$": "int", "value": "1152921504606846976"}]]},
        "x": [
            {"$": "bytes", "value": "YWI="},
            {"$": "float", "value": "inf"},
            {"$": "complex", "value": [0.0, 1.0]},
        ],
    }
    assert list(flat.arrays) == ["a/0"]


def test_equal_states_have_equal_structures_whatever_the_order_of_their_keys():
    one, other = {"a": 1, 2: {"x": 3, "y": 4}}, {2: {"y": 4, "x": 3}, "a": 1}
    assert flatten(one).structure == flatten(other).structure


def test_the_same_array_twice_is_two_entries_and_nothing_is_copied():
    array = np.arange(3)
    flat = flatten({"a": array, "b": array})
    assert flat.arrays["a"] is array
    assert flat.arrays["b"] is array


def test_long_bytes_are_kept_outside_the_structure_and_come_back_as_bytes():
    tree = {"iterator": bytes(range(256)) * 100}
    flat = flatten(tree)
    assert flat.structure == {"iterator": {"$": "tensor", "as": "bytes"}}
    assert unflatten(flat.structure, flat.arrays) == tree


class Colour(enum.IntEnum):
    RED = 1


class Subclass(np.ndarray):
    pass


class Point(typing.NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    ("leaf", "way_out"),
    [
        (np.longdouble(1), "float64"),
        (np.zeros(2, np.clongdouble), "complex128"),
        (np.zeros(2, [("a", "i4")]), "each field"),
        (np.zeros(2, "V3"), "raw bytes"),
        (np.array(["a", 1], object), "either str or bytes"),
        (np.array(["a", b"b"], object), "either str or bytes"),
        (np.array(["\ud800"], object), "Unicode"),
        (np.array(["a"], np.dtypes.StringDType()), "astype"),
        (np.zeros(2).view(Subclass), "np.asarray"),
        (np.ma.masked_array([1, 2], [True, False]), "x.data and x.mask"),
        (Colour.RED, r"int\(x\)"),
        (Point(1, 2), "_asdict"),
        (collections.OrderedDict(a=1), r"dict\(x\)"),
        ({1, 2}, "sorted"),
        (bytearray(b"x"), r"bytes\(x\)"),
        ("\udfff", "Unicode"),
        (object(), "a state holds"),
        (..., "a state holds"),
    ],
)
def test_what_cannot_come_back_as_it_was_is_refused_with_its_path_and_a_way_out(leaf, way_out):
    with pytest.raises(UnsupportedState, match=rf"model/3: .*{way_out}"):
        flatten({"model": [0, 1, 2, leaf]})


@pytest.mark.parametrize("key", [True, 1.5, None, (1, 2), np.int64(3), np.str_("a")])
def test_keys_that_are_neither_str_nor_int_are_refused(key):
    with pytest.raises(UnsupportedState, match=r"a: the dict key .* keys are str or int"):
        flatten({"a": {key: 1}})


def test_a_container_that_holds_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(UnsupportedState, match="holds itself"):
        flatten(loop)


@pytest.mark.parametrize(
    ("structure", "error"),
    [
        ({"$": "lambda", "value": 1}, UnknownFormat),
        ({"$": 3}, UnknownFormat),
        ({"$": "tuple", "items": 3}, Damaged),
        ({"$": "tuple"}, Damaged),
        ({"$": "dict", "items": [["a", 1], ["a", 2]]}, Damaged),
        ({"$": "dict", "items": [[True, 1]]}, Damaged),
        ({"$": "dict", "items": [[1]]}, Damaged),
        ({"$": "int", "value": "1_0"}, Damaged),
        ({"$": "int", "value": 3}, Damaged),
        ({"$": "float", "value": "nan:0000000000000000"}, Damaged),
        ({"$": "float", "value": "infinity"}, Damaged),
        ({"$": "bytes", "value": "*"}, Damaged),
        ({"$": "complex", "value": [1.0]}, Damaged),
        ({"$": "complex", "value": [1.0, {"v": 1}]}, Damaged),
        ({"$": "int", "value": "1", "more": 1}, Damaged),
        ({"$": "tensor", "as": "pickle"}, UnknownFormat),
        ({"$": "tensor"}, NotFound),
    ],
)
def test_a_structure_that_flatten_does_not_write_is_a_typed_error(structure, error):
    with pytest.raises(error):
        unflatten({"a": structure}, {})


def test_pointers_of_an_object_array_never_pass_for_bytes():
    with pytest.raises(Damaged, match="uint8"):
        unflatten({"a": {"$": "tensor", "as": "bytes"}}, {"a": np.array(["x"], object)})


STRUCTURE = flatten(
    {"model": {"dense": {"kernel": np.zeros(1), "bias": np.zeros(1)}}, "opt": (np.zeros(1), {7: 1}), "epoch": None}
).structure


def test_select_leaves_out_dict_entries_and_marks_items():
    part = select(STRUCTURE, ["**/kernel", "opt/1"])
    assert tensor_paths(part) == ["model/dense/kernel"]
    assert unflatten(part, {"model/dense/kernel": 5}) == {"model": {"dense": {"kernel": 5}}, "opt": (..., {7: 1})}


def test_select_takes_the_whole_of_a_container_that_matches():
    assert select(STRUCTURE, ["**"]) == STRUCTURE
    assert select(STRUCTURE, ["model"]) == select(STRUCTURE, ["model/**"])


def test_select_finds_json_values_too_none_included():
    assert unflatten(select(STRUCTURE, ["epoch"]), {}) == {"epoch": None}


def test_a_pattern_that_matches_nothing_is_an_error_with_near_paths():
    with pytest.raises(NotFound, match="model/dense/kernel"):
        select(STRUCTURE, ["model/**", "model/dens/kernel"])
