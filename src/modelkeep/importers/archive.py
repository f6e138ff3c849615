"""The directory of a zip file, read strictly: what one reader would take for another file than the next is refused.

The format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT. Members follow each other from the first byte
on without overlaps and with nothing between them; the directory follows them and the end record ends the file.
"""

import itertools
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, UnknownFormat, Unsafe
from modelkeep.importers.source import BLOCK, Memory, Part, Source, read_bytes

SIGNATURE = b"PK\x03\x04"
STORED, DEFLATED = 0, 8

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR_BYTES = 24
_DEFLATE_RATIO = 1032
"""The most that one byte of a deflate stream can become."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file in the archive: ``packed`` bytes from ``start`` on become ``size`` bytes with the checksum ``crc``."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    header: int
    start: int


def looks_like(source: Source) -> bool:
    """Whether the file ends as a zip file does, whatever stands at its beginning."""
    count = min(source.size, _END.size)
    return read_bytes(source, source.size - count, count).startswith(b"PK\x05\x06")


def read_directory(source: Source, budget: Budget) -> dict[str, Member]:
    """The members by name.

    Raises:
        Unsafe: something before, between or behind the members, links, names that lead elsewhere.
        Damaged: duplicates, overlaps, local headers that say something else than the directory.
        LimitExceeded: more members, or a longer directory, than the budget allows.
    """
    start, size, count = _find_directory(source)
    budget.check("entries", count, source.name)
    budget.check("text", size, source.name)
    data = read_bytes(source, start, size)
    members: dict[str, Member] = {}
    offset = 0
    for _ in range(count):
        member, offset = _read_entry(source, data, offset)
        if member.name in members:
            raise Damaged(f"{source.name}: the member {member.name!r:.200} stands there twice", source.name)
        members[member.name] = member
    if offset != size:
        raise Damaged(f"{source.name}: the zip directory has {size} bytes, but its entries take {offset}", source.name)
    _check_places(source, list(members.values()), start)
    return members


def _find_directory(source: Source) -> tuple[int, int, int]:
    """Where the directory begins, its bytes, and its entries."""
    name, end = source.name, source.size - _END.size
    if end < 0 or not looks_like(source):
        raise Damaged(f"{name}: no zip directory at the end; the file was cut off, or something was appended", name)
    _, disk, first, here, count, size, start, _ = _END.unpack(read_bytes(source, end, _END.size))
    if 0xFFFF in (count, here) or 0xFFFFFFFF in (size, start):
        at = end - _LOCATOR64.size
        if at < _END64.size:
            raise Damaged(f"{name}: the zip end record is cut off", name)
        magic, disk, past, _ = _LOCATOR64.unpack(read_bytes(source, at, _LOCATOR64.size))
        end = at - _END64.size
        found, length, _, _, _, first, here, count, size, start = _END64.unpack(read_bytes(source, end, _END64.size))
        if magic != b"PK\x06\x07" or found != b"PK\x06\x06" or past != end or length != _END64.size - 12:
            raise Damaged(f"{name}: the zip64 end record is not where it should be", name)
    else:
        end = _skip_unneeded64(source, end, start + size)
    if disk or first or here != count:
        raise UnknownFormat(f"{name}: this zip file is split over several; join them first")
    if start + size != end:
        raise Unsafe(f"{name}: the zip directory ends at byte {start + size:,}, not at {end:,}: bytes were added to it")
    return start, size, count


def _skip_unneeded64(source: Source, end: int, wanted: int) -> int:
    """Where the directory ends; some writers add zip64 records that nothing needs."""
    at = end - _LOCATOR64.size - _END64.size
    if wanted != at or at < 0:
        return end
    record = read_bytes(source, at, _END64.size + _LOCATOR64.size)
    return at if record.startswith(b"PK\x06\x06") and record[_END64.size :].startswith(b"PK\x06\x07") else end


def _read_entry(source: Source, data: bytes, offset: int) -> tuple[Member, int]:
    where = source.name
    if offset + _ENTRY.size > len(data):
        raise Damaged(f"{where}: the zip directory is cut off", where)
    magic, _, _, flags, method, _, _, crc, packed, size, length, more, remark, disk, _, mode, header = (
        _ENTRY.unpack_from(data, offset)
    )
    offset += _ENTRY.size
    end = offset + length + more + remark
    if magic != b"PK\x01\x02" or end > len(data) or disk not in (0, 0xFFFF):
        raise Damaged(f"{where}: an entry of the zip directory is none", where)
    name = _check_name(data[offset : offset + length], where)
    extra = data[offset + length : offset + length + more]
    size, packed, header = _widen(extra, [size, packed, header], where)
    if flags & 0x2041:
        raise UnknownFormat(f"{where}: the member {name!r:.200} is encrypted; decrypt it first")
    if method not in (STORED, DEFLATED):
        raise UnknownFormat(f"{where}: the member {name!r:.200} is compressed with method {method}; store it instead")
    if stat.S_IFMT(mode >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Unsafe(f"{where}: the member {name!r:.200} is a link or a device")
    if packed != size if method == STORED else size > _DEFLATE_RATIO * packed + 64:
        raise Damaged(f"{where}: the member {name!r:.200} cannot have {size:,} bytes from {packed:,}", where)
    start = _data_start(source, header, (data[offset : offset + length], flags, method, crc, packed, size))
    return Member(name, method, crc, packed, size, header, start), end


def _widen(extra: bytes, fields: list[int], where: str) -> list[int]:
    """``fields`` with those that are all ones taken from the zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = iter(struct.iter_unpack("<Q", extra[at + 4 : at + 4 + (length & ~7)]))
            try:
                return [next(wide)[0] if field == 0xFFFFFFFF else field for field in fields]
            except StopIteration:
                break
        at += 4 + length
    if 0xFFFFFFFF in fields:
        raise Damaged(f"{where}: a size of more than 4 GB is not there", where)
    return fields


def _data_start(source: Source, header: int, wanted: tuple[bytes, int, int, int, int, int]) -> int:
    """Where the bytes of a member begin, once its local header says the same as the directory."""
    name, flags, method, crc, packed, size = wanted
    local = read_bytes(source, header, _LOCAL.size)
    magic, _, here, kind, _, _, check, small, large, length, more = _LOCAL.unpack(local)
    start: int = header + _LOCAL.size + length + more
    same = magic == SIGNATURE and here == flags and kind == method
    same = same and length == len(name) and read_bytes(source, header + _LOCAL.size, length) == name
    if same and not flags & 8:  # with the flag, the three stand behind the data
        extra = read_bytes(source, header + _LOCAL.size + length, more)
        same = [crc, size, packed] == [check, *_widen(extra, [large, small], source.name)]
    if not same:
        raise Damaged(f"{source.name}: the member {name!r:.200} says something else than the directory", source.name)
    return start


def _check_name(raw: bytes, where: str) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise Damaged(f"{where}: the name {raw!r:.200} of a member is not UTF-8", where) from None
    steps = name.removesuffix("/").split("/")
    if any(step in ("", ".", "..") for step in steps) or "\\" in name or ":" in steps[0] or not name.isprintable():
        raise Unsafe(f"{where}: the name {name!r:.200} of a member leads elsewhere, or hides something")
    return name


def _check_places(source: Source, members: list[Member], past: int) -> None:
    """Refuse overlaps, and room for other things between the members."""
    members = sorted(members, key=lambda member: member.header)
    ends = [0, *(member.start + member.packed for member in members)]
    starts = [*(member.header for member in members), past]
    for index, (end, start) in enumerate(zip(ends, starts, strict=True)):
        if start < end:
            raise Damaged(f"{source.name}: members of the zip file overlap at byte {start:,}", source.name)
        if start - end > (_DESCRIPTOR_BYTES if index else 0):
            raise Unsafe(f"{source.name}: {start - end:,} bytes at {end:,} belong to no member: it is two files in one")


def read_member(source: Source, member: Member) -> Iterator[bytes]:
    """The bytes of a member in blocks; the caller has compared ``member.size`` with the budget.

    Raises:
        Damaged: not as many bytes as declared, or another checksum.
    """
    name, crc, count = f"{source.name}: {member.name}", 0, 0
    for block in _blocks(source, member, name):
        crc, count = zlib.crc32(block, crc), count + len(block)
        if count > member.size:
            raise Damaged(f"{name}: it has more than the {member.size:,} bytes that it declares", source.name)
        yield block
    if count != member.size or crc != member.crc:
        raise Damaged(f"{name}: the checksum does not match; at least one bit is not what was written", source.name)


def read_head(source: Source, member: Member, count: int) -> bytes:
    """The first ``count`` bytes of a member, or all of a shorter one; no checksum covers them alone.

    Raises:
        Damaged: it cannot be decompressed.
    """
    if member.method == STORED:
        return read_bytes(source, member.start, min(count, member.size))
    packed = read_bytes(source, member.start, min(count, member.packed))
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, count)
    except zlib.error as error:
        raise Damaged(f"{source.name}: {member.name}: it cannot be decompressed: {error}", source.name) from None


def _blocks(source: Source, member: Member, name: str) -> Iterator[bytes]:
    packer = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == DEFLATED else None
    for offset in itertools.count(0, BLOCK):
        if offset >= member.packed:
            break
        data = read_bytes(source, member.start + offset, min(BLOCK, member.packed - offset))
        if packer is None:
            yield data
            continue
        try:
            while data:
                yield packer.decompress(data, BLOCK)
                data = packer.unconsumed_tail
        except zlib.error as error:
            raise Damaged(f"{name}: it cannot be decompressed: {error}", source.name) from None
    if packer is not None and (not packer.eof or packer.unused_data):
        raise Damaged(f"{name}: its compressed bytes do not end where they should", source.name)


def read_text(source: Source, member: Member, budget: Budget) -> str:
    """The text of a small member.

    Raises:
        LimitExceeded: it is longer than the budget's text.
        Damaged: it is not what was written, or not UTF-8.
    """
    budget.check("text", member.size, f"{source.name}: {member.name}")
    try:
        return b"".join(read_member(source, member)).decode()
    except UnicodeDecodeError as error:
        raise Damaged(f"{source.name}: {member.name} is not UTF-8 text: {error}", source.name) from None


def open_member(source: Source, member: Member, budget: Budget) -> tuple[Source, int]:
    """A member to read in at random, its checksum compared, and the bytes of memory that it takes.

    A stored member is read where it lies; a compressed one is unpacked into memory, never onto the disk.

    Raises:
        LimitExceeded: it is compressed, and unpacked it is more than the budget's bytes.
        Damaged: it is not what was written.
    """
    name = f"{source.name}: {member.name}"
    if member.method == STORED:
        for _ in read_member(source, member):
            pass
        return Part(source, member.start, member.size, name), 0
    budget.check("nbytes", member.size, name)
    room = bytearray(member.size)
    offset = 0
    for block in read_member(source, member):
        room[offset : offset + len(block)] = block
        offset += len(block)
    return Memory(room, name), member.size
