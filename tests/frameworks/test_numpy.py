"""What `modelkeep.frameworks.numpy` promises."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modelkeep.errors import StateMismatch, UnsupportedState
from modelkeep.frameworks.numpy import load_into, state_of
from modelkeep.state.compare import differences
from modelkeep.state.tree import flatten, unflatten

KINDS = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]


def through_the_store(tree):
    flat = flatten(tree)
    return unflatten(flat.structure, flat.arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_draws_on_where_it_was(kind):
    generator = np.random.Generator(kind(5))
    generator.standard_normal(7)
    generator.integers(0, 9, dtype=np.int32)  # leaves half a word in the buffer
    state = through_the_store(state_of({"rng": generator, "bits": kind(1)}))
    fresh = {"rng": np.random.Generator(kind(0)), "bits": kind(0)}
    load_into(fresh, state)
    assert fresh["rng"].integers(0, 9, 50, dtype=np.int32).tolist() == generator.integers(0, 9, 50, np.int32).tolist()
    assert fresh["bits"].random_raw(5).tolist() == kind(1).random_raw(5).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_random_state_keeps_its_spare_gaussian(kind):
    random = np.random.RandomState(kind(5))
    random.randn(3)
    state = through_the_store(state_of(random))
    assert state["has_gauss"] == 1
    fresh = np.random.RandomState(kind(0))
    load_into(fresh, state)
    assert fresh.randn(10).tolist() == random.randn(10).tolist()


def test_the_state_of_another_generator_is_refused_and_changes_nothing():
    generator = np.random.default_rng(3)
    before = state_of(generator)
    wrong = [
        state_of(np.random.MT19937(1)),
        {"bit_generator": "PCG64"},
        3,
        {**before, "state": {"state": -1, "inc": 0}},
    ]
    for state in wrong:
        with pytest.raises(StateMismatch, match="PCG64"):
            load_into(generator, state)
        assert not differences(state_of(generator), before)


def test_trees_come_back_in_place_and_share_nothing_with_the_state():
    weights = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    tree: dict[Any, Any] = {
        "w": weights.T,
        "list": [1, 2.5, (np.float32(3), None)],
        "text": np.array(["a", "bc"]),
        7: b"x",
    }
    state = state_of(tree)
    weights[:] = 0
    tree["list"][0], tree[7] = 9, b"y"
    kept = tree["w"]
    load_into(tree, state)
    assert tree["w"] is kept
    assert weights.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tree["list"][0] == 1
    assert tree[7] == b"x"
    state["w"][:] = 8
    assert weights[0, 1] == 1


def test_what_differs_is_listed_and_nothing_is_changed():
    tree: dict[Any, Any] = {"a": np.zeros(2), "b": [1, 2], "c": (1, 2), "d": 0, "e": np.zeros(1)}
    found = {"a": np.zeros(3), "b": [1], "c": (1, 3), "d": np.zeros(1), "f": 1}
    with pytest.raises(StateMismatch) as error:
        load_into(tree, found)
    assert str(error.value).splitlines()[1:] == [
        "  a: wanted float64 [2], found float64 [3]",
        "  b: wanted 2 items, found 1",
        "  c/1: wanted 2, which nothing can replace where it stands, found 3",
        "  d: wanted a value of type int, found float64 [1]",
        "  e: wanted float64 [1], not in the state",
        "  f: not wanted, found a value of type int",
    ]


def test_one_array_at_two_places_takes_one_value_only():
    shared = np.zeros(2)
    with pytest.raises(StateMismatch, match="b: is the same as a, found other values than there"):
        load_into({"a": shared, "b": shared}, {"a": np.zeros(2), "b": np.ones(2)})
    load_into({"a": shared, "b": shared}, {"a": np.ones(2), "b": np.ones(2)})
    assert shared.tolist() == [1, 1]


def test_a_read_only_array_is_refused():
    array = np.zeros(2)
    array.flags.writeable = False
    with pytest.raises(StateMismatch, match="read-only"):
        load_into({"a": array}, {"a": np.ones(2)})


def test_what_is_no_state_is_named():
    with pytest.raises(UnsupportedState, match=r"a/0: a builtins\.set cannot be kept; hold it as numpy arrays"):
        state_of({"a": [{1, 2}]})
    with pytest.raises(UnsupportedState, match="a/0"):
        load_into({"a": [{1, 2}]}, {"a": [1]})
