"""The table file of LevelDB, as TensorFlow writes the index of a checkpoint: sorted keys in blocks with checksums.

The format: https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

from collections.abc import Iterator

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, UnknownFormat
from modelkeep.importers.crc32c import crc32c, masked
from modelkeep.importers.protobuf import varint
from modelkeep.importers.source import Source, read_bytes

_FOOTER_BYTES = 48
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_TRAILER_BYTES = 5


def looks_like(source: Source) -> bool:
    """Whether the file ends as a table does."""
    return source.size >= _FOOTER_BYTES and read_bytes(source, source.size - 8, 8) == _MAGIC


def read_table(source: Source, budget: Budget) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values in the order of the file; keys rise strictly.

    Raises:
        Damaged: a checksum, an order or a length does not fit.
        LimitExceeded: the file is longer than the budget's text, or has more keys than its entries.
        UnknownFormat: compressed blocks, which TensorFlow does not write.
    """
    budget.check("text", source.size, source.name)
    if not looks_like(source):
        raise Damaged(f"{source.name}: it does not end as an index does; it may have been cut off", source.name)
    footer = read_bytes(source, source.size - _FOOTER_BYTES, _FOOTER_BYTES)
    _, past = _handle(footer, 0, source.name)
    index, _ = _handle(footer, past, source.name)
    last, count = b"", 0
    for _, value in _entries(_block(source, index), source.name):
        block, _ = _handle(value, 0, source.name)
        for key, item in _entries(_block(source, block), source.name):
            count += 1
            budget.check("entries", count, source.name)
            if count > 1 and key <= last:
                raise Damaged(f"{source.name}: the key {key!r:.200} is not in order, or is there twice", source.name)
            last = key
            yield key, item


def _handle(data: bytes, offset: int, where: str) -> tuple[tuple[int, int], int]:
    start, offset = varint(data, offset, where)
    size, offset = varint(data, offset, where)
    return (start, size), offset


def _block(source: Source, place: tuple[int, int]) -> bytes:
    """The content of a block, its checksum compared."""
    start, size = place
    data = read_bytes(source, start, size + _TRAILER_BYTES)
    if masked(crc32c(data[:-4])) != int.from_bytes(data[-4:], "little"):
        raise Damaged(f"{source.name}: the checksum of the block at byte {start:,} does not match", source.name)
    if data[size]:
        raise UnknownFormat(f"{source.name}: its blocks are compressed, which TensorFlow does not do; save it again")
    return data[:size]


def _entries(block: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Keys (the first part shared with the one before) and values of a block, up to its list of restarts."""
    restarts = int.from_bytes(block[-4:], "little") if len(block) >= 4 else 1 << 32
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise Damaged(f"{where}: a block of its index is too short", where)
    offset, key = 0, b""
    while offset < end:
        shared, offset = varint(block, offset, where)
        fresh, offset = varint(block, offset, where)
        size, offset = varint(block, offset, where)
        if shared > len(key) or offset + fresh + size > end:
            raise Damaged(f"{where}: a block of its index has an entry past its end", where)
        key = key[:shared] + block[offset : offset + fresh]
        offset += fresh
        yield key, block[offset : offset + size]
        offset += size
