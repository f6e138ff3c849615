"""Strategies for states, shared by the tests of state, snapshot and store."""

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

PLAIN = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
BIG_ENDIAN = [">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c8", ">c16", ">U3", ">M8[ns]", ">m8[3D]"]
OTHER = ["<U1", "<U7", "S1", "S5", "M8[ns]", "M8[D]", "m8[us]", "M8[25s]", "M8", "m8"]
CUSTOM = sorted(
    name
    for name in dir(ml_dtypes)
    if isinstance(getattr(ml_dtypes, name), type) and issubclass(getattr(ml_dtypes, name), np.generic)
)
DTYPES = [np.dtype(name) for name in PLAIN + BIG_ENDIAN + OTHER] + [np.dtype(getattr(ml_dtypes, n)) for n in CUSTOM]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def raw_arrays(draw, dtype=None, shape=SHAPES):
    """An array of any bits at all: NaN payloads, padding bits and invalid code points included."""
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    shape = draw(shape)
    count = int(np.prod(shape, dtype=np.int64))
    data = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    array = np.frombuffer(data, np.uint8).copy().view(dtype).reshape(shape) if count else np.empty(shape, dtype)
    return draw(st.sampled_from([lambda a: a, lambda a: a.T, lambda a: a[..., ::-1] if a.ndim else a, _strided]))(array)


def _strided(array):
    """The same values with a gap between the rows."""
    if array.ndim == 0 or array.size == 0:
        return array
    wide = np.repeat(array, 2, axis=0)
    return wide[::2]


@st.composite
def text_arrays(draw):
    items = draw(st.sampled_from([TEXT, st.binary(max_size=6)]))
    shape = draw(SHAPES)
    array = np.empty(shape, object)
    for index in np.ndindex(*shape):
        array[index] = draw(items)
    return array


ARRAYS = st.one_of(raw_arrays(), text_arrays())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 20000), 1 << 20000),
    st.floats(),
    TEXT,
    st.binary(max_size=8),
    st.complex_numbers(),
)
KEYS = st.one_of(TEXT, st.integers(-5, 5), st.sampled_from(["", "a/b", "3", "$", "$x", "%", "__metadata__", "é"]))


def trees(leaves=SCALARS | ARRAYS):
    """Nested dicts, lists and tuples of ``leaves``."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(KEYS, inner, max_size=3),
        ),
        max_leaves=8,
    )
