"""What `modelkeep.frameworks.tensorflow` promises."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from modelkeep.errors import StateMismatch, UnsupportedState
from modelkeep.frameworks.tensorflow import from_numpy, load_into, state_of, to_numpy
from modelkeep.state.compare import differences
from modelkeep.state.tree import flatten, unflatten

SMALL = ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]


def through_the_store(tree):
    flat = flatten(tree)
    return unflatten(flat.structure, flat.arrays)


class Block(tf.Module):
    """Variables in attributes, lists and dicts, one of them twice, a generator and a submodule."""

    def __init__(self, depth=1):
        super().__init__()
        self.kernel = tf.Variable(tf.random.normal((2, 3)))
        self.alias = self.kernel
        self.steps = [tf.Variable(1), tf.Variable(2.5, dtype=tf.float64)]
        self.named = {"a/b": tf.Variable([True, False])}
        self.words = tf.Variable([b"\xff\x00", b""])
        self.random = tf.random.Generator.from_seed(depth)
        self.inner = Block(depth - 1) if depth else None


def scramble(block):
    for variable in block.variables:
        value = tf.fill(variable.shape, b"?") if variable.dtype == tf.string else tf.zeros_like(variable)
        variable.assign(value)
    block.random.reset_from_seed(99)


def test_a_module_is_named_by_attribute_and_comes_back():
    block = Block()
    state = through_the_store(state_of(block, copy=True))
    names = ["alias", "kernel", "named/a%2Fb", "random/state", "steps/0", "steps/1", "words"]
    assert sorted(flatten(state).arrays) == sorted([*names, *(f"inner/{name}" for name in names)])
    assert state["words"].tolist() == [b"\xff\x00", b""]
    scramble(block)
    load_into(block, state)
    assert not differences(through_the_store(state_of(block)), state)
    assert block.random.normal((3,)).numpy().tolist() == tf.random.Generator.from_seed(1).normal((3,)).numpy().tolist()


def test_trees_of_variables_and_values_come_back_in_place():
    objects = {"w": [tf.Variable([1.0, 2.0])], "step": tf.Variable(3, dtype=tf.int64), "epoch": 5, "best": None}
    state = state_of(objects, copy=True)
    objects["w"][0].assign([0.0, 0.0])
    objects["step"].assign(0)
    objects["epoch"], objects["best"] = 0, 0.5
    kept = objects["w"][0]
    load_into(objects, state)
    assert kept is objects["w"][0]
    assert (kept.numpy().tolist(), int(objects["step"]), objects["epoch"], objects["best"]) == ([1, 2], 3, 5, None)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "bool", "complex64", "int8", "uint32", "int64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_a_captured_view_is_not_changed_by_assignments(dtype, shape):
    variable = tf.Variable(tf.cast(tf.ones(shape), dtype))
    view, copy = state_of(variable), state_of(variable, copy=True)
    before = view.tobytes()
    assert not view.flags.writeable
    assert copy.flags.writeable
    variable.assign(tf.zeros(shape, dtype))
    if dtype != "bool":
        variable.assign_add(tf.cast(tf.ones(shape), dtype))
        variable.assign_sub(tf.cast(tf.fill(shape, 3), dtype))
    if shape == (2, 3):
        variable.scatter_nd_update([[1, 1]], tf.cast([0], dtype))
    assert view.tobytes() == copy.tobytes() == before


@pytest.mark.parametrize("dtype", SMALL)
def test_every_bit_pattern_of_small_floats_survives(dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    carrier = {1: np.uint8, 2: np.uint16}[kind.itemsize]
    patterns = np.arange(2 ** (8 * kind.itemsize), dtype=carrier).view(kind)
    variable = tf.Variable(tf.constant(patterns[::-1]))
    load_into({"x": variable}, through_the_store({"x": patterns}))
    found = state_of(variable)
    assert found.dtype == kind
    assert found.view(carrier).tolist() == patterns.view(carrier).tolist()


@pytest.mark.parametrize("size", [3, 1 << 18])
def test_an_array_that_was_loaded_may_be_reused(size):
    raw = np.zeros(size + 16, "float32")
    array = raw[-raw.ctypes.data % 64 // 4 :][:size]  # aligned, as buffers that frameworks adopt are
    variable = tf.Variable(tf.ones(size))
    load_into([variable], [array])
    tensor = from_numpy(array)
    array[:] = 7
    assert float(tf.reduce_max(variable)) == float(tf.reduce_max(tensor)) == 0


def test_a_variable_of_open_shape_takes_what_fits_it():
    variable = tf.Variable(tf.zeros((2, 3)), shape=(None, 3))
    load_into({"x": variable}, {"x": np.ones((5, 3), "float32")})
    assert state_of(variable).shape == (5, 3)
    with pytest.raises(StateMismatch, match=r"x: wanted float32 \[5, 3\], found float32 \[5, 4\]"):
        load_into({"x": variable}, {"x": np.ones((5, 4), "float32")})


def test_text_of_no_items_and_of_no_dimensions_comes_back():
    variables = [tf.Variable(b"one"), tf.Variable(tf.constant([], tf.string), shape=(None,))]
    state = through_the_store(state_of(variables))
    variables[0].assign(b"two")
    variables[1].assign([b"x"])
    load_into(variables, state)
    assert variables[0].numpy() == b"one"
    assert variables[1].numpy().tolist() == []


def test_what_differs_is_listed_and_nothing_is_changed():
    block = Block(0)
    before = state_of(block, copy=True)
    state = state_of(block, copy=True)
    state["kernel"] = np.zeros((2, 4), "float32")
    state["steps"][0] = np.array(9)
    state["random"]["algorithm"] = 2
    state["more"] = 1
    del state["words"]
    with pytest.raises(StateMismatch) as error:
        load_into(block, state)
    assert sorted(str(error.value).splitlines()[1:]) == [
        "  kernel: wanted float32 [2, 3], found float32 [2, 4]",
        "  more: not wanted, found a value of type int",
        "  random: wanted a generator of algorithm 1, found 2",
        "  steps/0: wanted int32 [], found int64 []",
        "  words: wanted a ResourceVariable, not in the state",
    ]
    assert not differences(state_of(block), before)


def test_a_variable_under_two_names_takes_one_value_only():
    block = Block(0)
    state = state_of(block, copy=True)
    assert state["alias"] is state["kernel"]
    state["alias"] = state["alias"] + 1
    with pytest.raises(StateMismatch, match="kernel: is the same as alias, found other values than there"):
        load_into(block, state)


def test_what_cannot_be_kept_or_assigned_is_named():
    with pytest.raises(UnsupportedState, match=r"a/0: a builtins\.object cannot be kept; pass tf\.Variable"):
        state_of({"a": [object()]})
    assert to_numpy(tf.constant([1, 2])).tolist() == [1, 2]
    with pytest.raises(UnsupportedState, match=r"t: .* cannot be assigned; hold a tf\.Variable"):
        load_into({"t": tf.constant(1)}, {"t": np.int32(1)})
