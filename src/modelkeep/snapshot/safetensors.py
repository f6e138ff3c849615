"""The header of a shard: built for a writer that streams, and parsed from bytes that somebody else may have written.

The format (https://github.com/huggingface/safetensors): 8 bytes little-endian length, a JSON header that may be padded
with spaces, then the data without holes. Our data begin at a multiple of 4096, and the header's room is reserved before
its content is known.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modelkeep.errors import Damaged, LimitExceeded, UnknownFormat
from modelkeep.snapshot.canonical import canonical_json, parse_json
from modelkeep.snapshot.dtypes import STORED_BYTES
from modelkeep.values import Json

HEADER_BYTES = 100_000_000
"""The longest header that the format allows."""

ALIGNMENT = 4096
LENGTH_BYTES = 8
MAX_ENTRIES = 1_000_000
_METADATA = "__metadata__"
_MAX_AXIS = 1 << 62


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece in a shard: its safetensors dtype and shape, and its bytes from ``start`` to ``stop`` of the data."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """``data_start``: where the data begin in the file. ``entries``: key -> entry, in the order of their bytes."""

    data_start: int
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def _header_json(entries: Iterable[Entry], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Json] = {
        entry.key: {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [entry.start, entry.stop]}
        for entry in entries
    }
    if metadata:
        header[_METADATA] = dict(metadata)
    return canonical_json(header)


def reserved_bytes(entries: Iterable[Entry], metadata: Mapping[str, str]) -> int:
    """Where data may begin so that a header of any of ``entries``, with part of ``metadata``, fits before them.

    >>> reserved_bytes([Entry("w", "F32", (2, 2), 0, 16)], {})
    4096
    """
    wanted = LENGTH_BYTES + len(_header_json(entries, metadata))
    return -(-wanted // ALIGNMENT) * ALIGNMENT


def build_header(entries: Iterable[Entry], metadata: Mapping[str, str], data_start: int) -> bytes:
    r"""The first ``data_start`` bytes of a shard: length, JSON, and spaces up to the data.

    Raises:
        LimitExceeded: the header does not fit.

    >>> build_header([Entry("w", "U8", (1,), 0, 1)], {}, 64)
    b'8\x00\x00\x00\x00\x00\x00\x00{"w":{"data_offsets":[0,1],"dtype":"U8","shape":[1]}}   '
    """
    text = _header_json(entries, metadata)
    room = data_start - LENGTH_BYTES
    if len(text) > room or room > HEADER_BYTES:
        raise LimitExceeded(f"a shard header of {len(text)} bytes does not fit the {room} bytes that it has")
    return room.to_bytes(LENGTH_BYTES, "little") + text.ljust(room)


def data_start(prefix: bytes, size: int, key: str) -> int:
    """Where the data of a shard of ``size`` bytes begin, from its first 8 bytes.

    Raises:
        Damaged: the length is not one that a shard can have; names ``key``.
    """
    if len(prefix) < LENGTH_BYTES:
        raise Damaged(f"{key}: the file has {size} bytes, too few for a shard", key)
    start = LENGTH_BYTES + int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if start > size or start > LENGTH_BYTES + HEADER_BYTES:
        raise Damaged(f"{key}: the header should end at byte {start}, but the file has {size} bytes", key)
    return start


def parse_header(region: bytes, *, size: int, key: str) -> Header:
    """Read the header of a shard; ``region``: the file up to its data, ``size``: bytes of the whole file.

    Raises:
        Damaged: offsets with holes or overlaps, lengths that do not fit dtype and shape, a wrong size, duplicate keys.
        UnknownFormat: a dtype that this version does not store.
        LimitExceeded: more than 1,000,000 entries.
    """
    start = data_start(region[:LENGTH_BYTES], size, key)
    if start != len(region):
        raise Damaged(f"{key}: the header should have {start} bytes, {len(region)} were given", key)
    header = parse_json(region[LENGTH_BYTES:], key=key, limit_bytes=HEADER_BYTES, max_depth=6)
    if not isinstance(header, dict):
        raise Damaged(f"{key}: the header is no JSON object", key)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise Damaged(f"{key}: the header's __metadata__ does not map text to text", key)
    if len(header) > MAX_ENTRIES:
        raise LimitExceeded(f"{key}: the header has {len(header)} entries, more than {MAX_ENTRIES}")
    entries = sorted((_entry(name, node, key) for name, node in header.items()), key=lambda entry: entry.start)
    end = 0
    for entry in entries:
        if entry.start != end:
            raise Damaged(f"{key}: entry {entry.key!r:.200} begins at {entry.start}, not at {end} where it should", key)
        end = entry.stop
    if end != size - start:
        raise Damaged(f"{key}: the entries have {end} bytes, but the file has {size - start}", key)
    texts = {name: text for name, text in metadata.items() if isinstance(text, str)}
    return Header(start, {entry.key: entry for entry in entries}, texts)


def _entry(name: str, node: Json, key: str) -> Entry:
    if not isinstance(node, dict) or node.keys() != {"dtype", "shape", "data_offsets"}:
        raise Damaged(f"{key}: entry {name!r:.200} has not exactly dtype, shape and data_offsets", key)
    dtype, shape, offsets = node["dtype"], _sizes(node["shape"]), _sizes(node["data_offsets"])
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise Damaged(f"{key}: entry {name!r:.200} has a dtype, shape or offsets that are none", key)
    if dtype not in STORED_BYTES:
        raise UnknownFormat(f"{key}: entry {name!r:.200} has the dtype {dtype!r:.40}, which is not known")
    if math.prod(shape) * STORED_BYTES[dtype] != offsets[1] - offsets[0]:
        raise Damaged(f"{key}: entry {name!r:.200} has {offsets[1] - offsets[0]} bytes, not what {shape} takes", key)
    return Entry(name, dtype, shape, offsets[0], offsets[1])


def _sizes(node: Json) -> tuple[int, ...] | None:
    """A list of sizes, or None; bools are ints in Python and no sizes."""
    if not isinstance(node, list) or len(node) > 66:
        return None
    sizes = tuple(item for item in node if type(item) is int and 0 <= item < _MAX_AXIS)
    return sizes if len(sizes) == len(node) else None
