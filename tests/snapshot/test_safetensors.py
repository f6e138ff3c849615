import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from modelkeep.errors import Damaged, LimitExceeded, ModelkeepError, UnknownFormat
from modelkeep.snapshot.safetensors import Entry, build_header, parse_header, reserved_bytes

ENTRIES = [Entry("a/w", "F32", (2, 1), 0, 8), Entry("a/n#rows-0-3", "U8", (3,), 8, 11)]
METADATA = {"dtypes": '{"a/n":"<U1"}'}


def test_a_small_shard_is_the_one_of_the_format(tmp_path):
    start = reserved_bytes(ENTRIES, METADATA)
    data = np.float32([1, -2]).tobytes() + b"\1\2\3"
    shard = build_header(ENTRIES, METADATA, start) + data
    text = (
        b'{"__metadata__":{"dtypes":"{\\"a/n\\":\\"<U1\\"}"},"a/n#rows-0-3":{"data_offsets":[8,11],"dtype":"U8",'
        b'"shape":[3]},"a/w":{"data_offsets":[0,8],"dtype":"F32","shape":[2,1]}}'
    )
    assert shard == b"\xf8\x0f\0\0\0\0\0\0" + text.ljust(4088) + b"\0\0\x80\x3f\0\0\0\xc0\1\2\3"
    assert start == 4096
    (tmp_path / "x.safetensors").write_bytes(shard)
    loaded = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert loaded["a/w"].tolist() == [[1], [-2]]
    assert loaded["a/n#rows-0-3"].tolist() == [1, 2, 3]


def test_a_header_is_parsed_as_it_was_built():
    region = build_header(ENTRIES, METADATA, 4096)
    header = parse_header(region, size=4096 + 11, key="k")
    assert header.data_start == 4096
    assert list(header.entries.values()) == ENTRIES
    assert header.metadata == METADATA


def test_room_for_all_entries_is_room_for_any_of_them():
    entries = [Entry(f"layer/{n}/kernel", "F32", (1000, 7), 28000 * n, 28000 * (n + 1)) for n in range(1000)]
    start = reserved_bytes(entries, {})
    assert start % 4096 == 0
    for part in (entries, entries[::2], entries[:1]):
        assert len(build_header(part, {}, start)) == start


def test_a_header_that_outgrows_its_room_is_refused():
    with pytest.raises(LimitExceeded):
        build_header(ENTRIES, METADATA, 64)


def shard_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text, len(data)


def node(dtype="U8", shape=(1,), offsets=(0, 1)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("shard", "error"),
    [
        (shard_of({}, length=1 << 62), Damaged),
        (shard_of({}, length=3), Damaged),
        ((b"\1\0", 0), Damaged),
        (shard_of(b"[]"), Damaged),
        (shard_of(b"{"), Damaged),
        (shard_of(b'{"a":{},"a":{}}'), Damaged),
        (shard_of({"a": node()}, b""), Damaged),
        (shard_of({"a": node()}, b"xy"), Damaged),
        (shard_of({"a": node(), "b": node(offsets=(2, 3))}, b"xyz"), Damaged),
        (shard_of({"a": node(), "b": node()}, b"x"), Damaged),
        (shard_of({"a": node(offsets=(1, 0))}, b"x"), Damaged),
        (shard_of({"a": node(offsets=(-1, 0))}, b"x"), Damaged),
        (shard_of({"a": node(offsets=(0, 1.0))}, b"x"), Damaged),
        (shard_of({"a": node(offsets=(False, True))}, b"x"), Damaged),
        (shard_of({"a": node(shape=(1 << 61, 8), offsets=(0, 0))}), Damaged),
        (shard_of({"a": node(shape=(1 << 63,))}, b"x"), Damaged),
        (shard_of({"a": node(shape=(1,) * 1000)}, b"x"), Damaged),
        (shard_of({"a": node(dtype="F32")}, b"x"), Damaged),
        (shard_of({"a": node(dtype="F4")}, b"x"), UnknownFormat),
        (shard_of({"a": node(dtype=3)}, b"x"), Damaged),
        (shard_of({"a": {**node(), "more": 1}}, b"x"), Damaged),
        (shard_of({"__metadata__": {"a": 1}}), Damaged),
        (shard_of({"__metadata__": 1}), Damaged),
        (shard_of({"a": [[[[[[[[]]]]]]]]}), LimitExceeded),
        (shard_of(b'{"a":' + b"[" * 500 + b"]" * 500 + b"}"), LimitExceeded),
    ],
)
def test_a_hostile_header_is_a_typed_error(shard, error):
    region, count = shard
    with pytest.raises(error) as caught:
        parse_header(region, size=len(region) + count, key="shards/x")
    assert "shards/x" in str(caught.value)


def test_what_the_reference_refuses_is_refused_here_too():
    """Whatever the published reader does not take for a shard must not pass for one here."""
    good = build_header(ENTRIES, METADATA, 512) + bytes(11)
    for place in range(300):
        for torn in (good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :], good[:place]):
            try:
                safetensors.deserialize(torn)
            except safetensors.SafetensorError:
                start = 8 + int.from_bytes(torn[:8], "little")
                with pytest.raises(ModelkeepError):
                    parse_header(torn[:start], size=len(torn), key="k")
