import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkeep.errors import Damaged, UnknownFormat, UnsupportedState
from modelkeep.snapshot.dtypes import STORED_BYTES, logical_name, numpy_dtype, storage
from modelkeep.snapshot.pieces import PIECE_BYTES, cut, digest, grid
from modelkeep.snapshot.texts import decode_texts, encode_texts
from modelkeep.state import differences

from ..state.states import DTYPES, raw_arrays, text_arrays


def joined(array):
    """The array rebuilt from its pieces, as a reader would."""
    name = logical_name(array)
    data = b"".join(bytes(piece.data) for piece in cut(array))
    if array.dtype.kind == "O":
        return decode_texts(np.frombuffer(data, np.uint8), array.shape, name)
    return (
        np.frombuffer(data, np.uint8).view(numpy_dtype(name)).reshape(array.shape)
        if data
        else np.empty(array.shape, numpy_dtype(name))
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: f"{dtype.byteorder}{dtype.name}")
def test_every_dtype_comes_back_bit_for_bit(dtype):
    @given(raw_arrays(dtype))
    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    def comes_back(array):
        back = joined(array)
        assert differences([array], [back]) == []
        assert back.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")

    comes_back()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: f"{dtype.byteorder}{dtype.name}")
def test_every_dtype_has_one_name_and_a_stored_form_of_the_same_bytes(dtype):
    name = logical_name(np.empty(0, dtype))
    stored = storage(name)
    assert numpy_dtype(name) == dtype.newbyteorder("<")
    assert STORED_BYTES[stored.dtype] * max(1, stored.trailing) == stored.itemsize == dtype.itemsize


@given(text_arrays())
def test_texts_come_back_as_they_were(array):
    assert differences([array], [joined(array)]) == []


@given(st.tuples(*[st.integers(1, 6)] * 3), st.integers(1, 40), st.sampled_from([(0, 1, 2), (2, 0, 1), (1, 2, 0)]))
def test_blocks_of_rows_cover_every_layout_in_order(shape, rows, order):
    from modelkeep.state.rows import row_blocks

    array = np.arange(np.prod(shape)).reshape(shape).transpose(order)
    for axes in (1, 2, 3):
        blocks = list(row_blocks(array, axes, rows))
        assert np.array_equal(np.concatenate([block.reshape(-1) for _, _, block in blocks]), array.reshape(-1))
        assert [first for first, _, _ in blocks] == list(range(0, int(np.prod(array.shape[:axes])), rows))


def test_a_contiguous_array_is_not_copied():
    array = np.zeros((3000, 1000), np.float32)
    pieces = list(cut(array))
    assert [len(piece.data) for piece in pieces] == [1048 * 4000, 1048 * 4000, 904 * 4000]
    assert all(np.shares_memory(np.asarray(piece.data), array) for piece in pieces)


def test_a_transposed_array_is_copied_one_piece_at_a_time():
    array = np.arange(3_000_000, dtype=np.float32).reshape(1000, 3000).T
    pieces = cut(array)
    assert len(next(pieces).data) <= PIECE_BYTES
    assert np.array_equal(joined(array), array)


@pytest.mark.parametrize("shape", [(1, 4096, 4096), (2, 3, 2_000_000), (1, 1, 9_000_000), (5_000_000,)])
def test_no_piece_is_larger_than_4_mib_whatever_the_shape(shape):
    lines = grid(shape, 4)
    assert lines.nbytes == np.prod(shape) * 4
    assert max(past - first for first, past in map(lines.span, range(lines.count))) <= PIECE_BYTES


def test_equal_bytes_of_other_dtypes_share_a_digest():
    assert [digest(piece.data) for piece in cut(np.zeros(4, "f4"))] == [
        digest(piece.data) for piece in cut(np.zeros(2, "i8"))
    ]


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), (0, 1 << 40)])
def test_an_array_without_values_has_no_pieces(shape):
    assert list(cut(np.empty(shape, ml_dtypes.bfloat16))) == []
    assert grid(shape, 2).count == 0


@pytest.mark.parametrize(
    "name",
    ["float128", "object", "O", "V8", "<U0", "<U999999999", "datetime64[99999999999s]", "f4", "finfo", "", "real"],
)
def test_a_name_of_no_dtype_is_a_typed_error(name):
    with pytest.raises(UnknownFormat):
        numpy_dtype(name)


@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble, "V4", [("a", "i4")]])
def test_a_dtype_that_cannot_be_kept_is_refused(dtype):
    with pytest.raises(UnsupportedState):
        logical_name(np.empty(1, dtype))


@pytest.mark.parametrize(
    ("stream", "shape"),
    [
        (b"", (1,)),
        (b"\1" + bytes(7), (1,)),
        (b"\1" + bytes(7) + b"ab", (1,)),
        (b"\2" + bytes(7) + b"\1" + bytes(7) + b"ab", (2,)),
        (b"\xff" * 8 + b"ab", (1,)),
        (b"\1" + bytes(7) + b"\xff", (1,)),
        (b"x", (0,)),
        (b"", (1 << 40,)),
    ],
)
def test_a_torn_stream_of_texts_is_a_typed_error(stream, shape):
    with pytest.raises(Damaged):
        decode_texts(np.frombuffer(stream, np.uint8), shape, "str")


def test_the_stream_of_texts_is_the_one_of_the_format():
    assert encode_texts(np.array([["é"], [""]], object)).tobytes().hex() == "02" + "00" * 7 + "02" + "00" * 7 + "c3a9"
