"""What `modelkeep.frameworks.jax` promises."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from modelkeep.errors import StateMismatch, UnsupportedState
from modelkeep.frameworks.jax import restore, state_of
from modelkeep.state.compare import differences
from modelkeep.state.tree import flatten, unflatten

SMALL = ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float8_e8m0fnu", "float8_e3m4"]


def through_the_store(tree):
    flat = flatten(tree)
    return unflatten(flat.structure, flat.arrays)


class Moments(NamedTuple):
    count: Any
    mu: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: Any
    bias: Any


@jax.tree_util.register_pytree_node_class
class Unnamed:
    """A node that does not say what its children are called."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def tree():
    return {
        "params": [
            Layer(jnp.arange(6.0).reshape(2, 3), jnp.zeros(3, jnp.bfloat16)),
            Unnamed(jnp.ones(2), jnp.int32(4)),
        ],
        "optimizer": (Moments(jnp.int32(7), {"w": jnp.ones(2)}), (), None),
        "key": jax.random.split(jax.random.key(3), 2),
        "old_key": jax.random.PRNGKey(3),
        "host": np.arange(3),
        "step": 12,
        "rate": 0.5,
    }


def test_leaves_are_named_by_their_key_path():
    flat = flatten(state_of(tree()))
    assert list(flat.arrays) == [
        *("host", "key/key_data", "old_key", "optimizer/0/count", "optimizer/0/mu/w"),
        *("params/0/bias", "params/0/kernel", "params/1/0", "params/1/1"),
    ]
    structure: Any = flat.structure
    assert structure["key"]["impl"] == "threefry2x32"
    assert (structure["step"], structure["rate"]) == (12, 0.5)


def test_a_tree_comes_back_with_its_structure_types_and_bits():
    zeros = jax.tree.map(lambda leaf: leaf * 0, {**tree(), "key": None})
    like = {**zeros, "key": jax.random.split(jax.random.key(9), 2)}
    made = restore(like, through_the_store(state_of(tree())))
    assert jax.tree.structure(made) == jax.tree.structure(tree())
    assert isinstance(made["optimizer"][0], Moments)
    assert isinstance(made["params"][0], Layer)
    assert isinstance(made["host"], np.ndarray)
    assert not differences(state_of(made), state_of(tree()))
    assert jax.random.normal(made["key"][1], (3,)).tolist() == jax.random.normal(tree()["key"][1], (3,)).tolist()


@pytest.mark.parametrize("dtype", SMALL)
def test_every_bit_pattern_of_small_floats_survives(dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    carrier = {1: np.uint8, 2: np.uint16}[kind.itemsize]
    patterns = np.arange(2 ** (8 * kind.itemsize), dtype=carrier).view(kind)
    made = restore(jnp.zeros(patterns.shape, kind), patterns)
    assert made.dtype == kind
    again = through_the_store({"x": state_of(made)})["x"]
    assert again.dtype == kind
    assert again.view(carrier).tolist() == patterns.view(carrier).tolist()


@pytest.mark.parametrize("dtype", ["int4", "uint4", "bool", "int8", "uint32", "complex64", "float32"])
@pytest.mark.parametrize("shape", [(), (0, 2), (3, 2)])
def test_other_dtypes_and_shapes_survive(dtype, shape):
    value = np.random.default_rng(0).integers(0, 2, shape).astype(jnp.dtype(dtype))
    made = restore({"x": jnp.zeros(shape, dtype)}, through_the_store(state_of({"x": jnp.asarray(value)})))["x"]
    assert (made.dtype, made.shape) == (jnp.dtype(dtype), shape)
    assert made.tolist() == value.tolist()


def test_a_captured_view_is_not_changed_by_donation():
    array = jnp.arange(1000.0)
    view = state_of({"x": array})["x"]
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    for _ in range(3):
        array = step(array)
    assert array[0] == 3
    assert view.tolist() == list(range(1000))


def test_an_array_that_was_restored_from_may_be_reused():
    raw = np.zeros((1 << 16) + 16, "float32")
    source = raw[-raw.ctypes.data % 64 // 4 :][: 1 << 16]  # aligned: device_put would keep it as its own
    made = restore({"x": jnp.ones(1 << 16)}, {"x": source})["x"]
    source[:] = 7
    assert float(made.max()) == 0


def test_a_copy_and_a_view_hold_the_same():
    array = jnp.arange(5.0)
    copy, view = state_of(array, copy=True), state_of(array)
    assert copy.flags.writeable
    assert not view.flags.writeable
    assert not differences(copy, view)


def test_devices_shardings_and_weak_types_are_those_of_like():
    device = jax.devices()[0]
    sharding = jax.sharding.NamedSharding(jax.make_mesh((1,), ("data",)), jax.sharding.PartitionSpec("data"))
    like = {
        "free": jnp.ones(2),
        "bound": jax.device_put(jnp.ones(2), device),
        "sharded": jax.device_put(jnp.ones(2), sharding),
        "weak": jnp.asarray(1.0),
        "abstract": jax.ShapeDtypeStruct((2,), jnp.float32, sharding=sharding),
        "key": jax.eval_shape(lambda: jax.random.key(1)),
    }
    state = {
        **state_of({name: leaf for name, leaf in like.items() if isinstance(leaf, jax.Array)}),
        "abstract": np.ones(2, "float32"),
        "key": state_of(jax.random.key(1)),
    }
    made = restore(like, through_the_store(state))
    assert [made[name].committed for name in ("free", "bound", "sharded", "weak")] == [False, True, True, False]
    assert made["sharded"].sharding == made["abstract"].sharding == sharding
    assert made["weak"].weak_type
    assert not made["free"].weak_type
    assert (made["weak"] * jnp.ones(1, jnp.bfloat16)).dtype == jnp.bfloat16
    assert jax.random.bits(made["key"]) == jax.random.bits(jax.random.key(1))


def test_what_differs_is_listed():
    like = {"a": jnp.ones(2), "b": [jnp.ones(1), jnp.ones(1)], "c": 1, "k": jax.random.key(0), "n": np.ones(2)}
    state = state_of(like)
    state["a"] = np.ones(3, "float32")
    state["b"] = [state["b"][0]]
    state["c"] = np.ones(1)
    state["k"] = state_of(jax.random.key(0, impl="rbg"))
    state["n"] = np.ones(2, "float32")
    state["more"] = {"x": np.ones(1)}
    with pytest.raises(StateMismatch) as error:
        restore(like, state)
    assert str(error.value).splitlines()[1:] == [
        "  a: wanted float32 [2], found float32 [3]",
        "  b/1: wanted float32 [1], not in the state",
        "  c: wanted a value of type int, found float64 [1]",
        "  k: wanted a PRNG key of threefry2x32, found rbg",
        "  n: wanted float64 [2], found float32 [2]",
        "  more/x: not wanted, found float64 [1]",
    ]


def test_lists_and_tuples_are_found_by_position():
    assert restore([jnp.zeros(1), 0], [np.ones(1, "float32"), 5])[1] == 5
    with pytest.raises(StateMismatch, match="b/1: not wanted"):
        restore({"b": [0]}, {"b": {0: 1, 1: 2}})


def test_what_cannot_be_kept_is_named():
    gone = jnp.ones(3)
    gone.delete()
    with pytest.raises(UnsupportedState, match="a/0: was given away"):
        state_of({"a": [gone]})
    with pytest.raises(UnsupportedState, match=r"f: a builtins\.function cannot be kept; .* eqx\.partition"):
        state_of({"f": lambda: 0})
    with pytest.raises(UnsupportedState, match="x: has no value inside a transformed function"):
        jax.jit(lambda x: state_of({"x": x}))(jnp.ones(1))
    with pytest.raises(UnsupportedState, match="is a tuple; use text or an int"):
        state_of({(1, 2): jnp.ones(1)})
    with pytest.raises(UnsupportedState, match=r"f: a builtins\.function"):
        restore({"f": lambda: 0}, {"f": 1})
