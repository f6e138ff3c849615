"""Zip archives: members read where they lie, whatever flags and checksums say.

torch, Keras and zipfile read the same archive by different rules. So the index is read with zipfile, the data are not:
a flag or a checksum that stops one reader does not stop another, nor this scan.
"""

import bz2
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from modelkeep.scan import torchscript
from modelkeep.scan.findings import Finding, beyond, damaged
from modelkeep.scan.source import ARCHIVES_DEEP, IN_MEMORY, Context, Source, Window, leaves_folder

_LOCAL = b"PK\x03\x04"
_LOCAL_BYTES = 30
_DESCRIPTOR = 24
_CHUNK = 1 << 20
_CHECKED = 16 << 20
"""Stored members up to this size have their checksum compared; reading gigabytes for it is what ``verify`` is for."""
_BOMB_BYTES, _BOMB_RATIO = 64 << 20, 100
_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of the index, or a local header that was found without one. ``at`` is where its local header lies."""

    name: str
    at: int
    stored: int
    size: int
    method: int
    flags: int
    crc: int
    mode: int


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def findings(source: Source, context: Context) -> list[Finding]:
    """Findings of the archive itself and of all members."""
    if context.depth >= ARCHIVES_DEEP:
        return [beyond(source.name, f"an archive within {context.depth} others", "unpack it by hand, if you trust it")]
    if not source.whole:
        return [
            beyond(source.name, "a compressed archive that is too large to unpack", "unpack it, and scan the parts")
        ]
    found: list[Finding] = []
    try:
        with zipfile.ZipFile(source.file) as archive:
            members = [_member(one) for one in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, IndexError, OSError) as error:
        members = list(_without_index(source))
        found.append(damaged(source.name, f"the index of the archive cannot be read ({error})"))
    context.budget.check("entries", len(members), source.name)
    found.extend(_of_index(source, members))
    found.extend(torchscript.findings_of_names(source.name, [one.name for one in members]))
    bombs = _bombs(members)
    if bombs:
        what = f"{sum(one.stored for one in bombs):,} bytes that unpack to {sum(one.size for one in bombs):,}"
        where = f"{source.name}!{bombs[0].name}"
        found.append(Finding(where, what, "unsafe", "loading it uses up the memory", "do not load it"))
    skipped = {one.at for one in bombs}
    for member in members:
        if not member.name.endswith("/") and member.at not in skipped:
            skipped.add(member.at)  # further names of the same bytes: an overlap, which is a finding of the index
            found.extend(_of_member(source, member, context))
    return found


def _bombs(members: list[Member]) -> list[Member]:
    """The members that unpack to very much more than they take, when they are large together."""
    swollen = [one for one in members if one.size > _BOMB_RATIO * max(1, one.stored)]
    return swollen if sum(one.size for one in swollen) > _BOMB_BYTES else []


def _member(info: zipfile.ZipInfo) -> Member:
    return Member(
        info.orig_filename, info.header_offset, info.compress_size, info.file_size, info.compress_type, info.flag_bits,
        info.CRC, info.external_attr >> 16,
    )  # fmt: skip


def _without_index(source: Source) -> Iterator[Member]:
    """Members by their local headers, which lie behind each other; some readers go by these."""
    at = 0
    while (head := source.read(at, _LOCAL_BYTES)).startswith(_LOCAL) and len(head) == _LOCAL_BYTES:
        _, _, flags, method, _, _, crc, stored, size, names, extra = struct.unpack("<IHHHHHIIIHH", head)
        name = source.read(at + _LOCAL_BYTES, names).decode("utf-8", "replace")
        yield Member(name, at, stored, size, method, flags, crc, 0)
        at += _LOCAL_BYTES + names + extra + stored


def _of_index(source: Source, members: list[Member]) -> Iterator[Finding]:
    for name, count in Counter(one.name for one in members).items():
        if count > 1:
            yield _odd(source, name, f"{count} members of one name", "readers differ in which one they take")
    ordered = sorted(members, key=lambda one: one.at)
    if ordered and ordered[0].at > 0:
        what = f"{ordered[0].at:,} bytes before the archive"
        yield _odd(source, "", what, "the same file is something else to other programs")
    for one, following in pairwise(ordered):
        end = _data_at(source, one) + one.stored
        if following.at - end > _DESCRIPTOR:
            what = f"{following.at - end:,} bytes behind it that the index does not name"
            yield _odd(source, one.name, what, "readers that go by local headers see members that others do not")
        elif following.at < end:
            yield _odd(
                source, following.name, "a member that overlaps another", "archives that unpack without end do so"
            )


def _odd(source: Source, name: str, what: str, why: str) -> Finding:
    where = f"{source.name}!{name}" if name else source.name
    return Finding(where, what, "suspicious", why, "pack it anew from parts that you trust")


def _of_member(source: Source, member: Member, context: Context) -> Iterator[Finding]:
    where = f"{source.name}!{member.name}"
    context.count_file(where)
    if leaves_folder(member.name):
        why = "unpacked, it is written outside the folder that was meant"
        yield Finding(where, "a name that leads out of the archive", "unsafe", why, "do not unpack it")
    if stat.S_ISLNK(member.mode):
        target = source.read(_data_at(source, member), 200).split(b"PK")[0].decode("utf-8", "replace")[: member.size]
        why = "unpacked, it leads to a file outside the archive"
        yield Finding(where, f"a symbolic link to {target}", "unsafe", why, "do not unpack it")
        return
    if member.flags & _ENCRYPTED:
        yield _odd(source, member.name, "a member that is marked as encrypted", "it hides its content from scanners")
    if member.size > context.budget.nbytes:
        yield beyond(where, f"{member.size:,} bytes, and the budget has {context.budget.nbytes:,}")
        return
    local = source.read(member.at, _LOCAL_BYTES)
    if not local.startswith(_LOCAL):
        yield damaged(where, "its local header is not where the index says")
        return
    yield from _of_local_name(source, member, local)
    opened = _open(source, member, where, context)
    if isinstance(opened, Finding):
        yield opened
        return
    if (
        member.crc
        and opened.whole
        and opened.size <= _CHECKED
        and zlib.crc32(opened.read(0, opened.size)) != member.crc
    ):
        yield damaged(where, "its checksum is another one")
    yield from context.look(opened, context.deeper())


def _of_local_name(source: Source, member: Member, local: bytes) -> Iterator[Finding]:
    name = source.read(member.at + _LOCAL_BYTES, int.from_bytes(local[26:28], "little"))
    if name not in {member.name.encode("utf-8", "replace"), member.name.encode("cp437", "replace")}:
        what = f"named {name[:100].decode('utf-8', 'replace')!r} in front of its data, and otherwise in the index"
        yield _odd(source, member.name, what, "readers differ in which name they take")


def _data_at(source: Source, member: Member) -> int:
    local = source.read(member.at, _LOCAL_BYTES)
    lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    return member.at + _LOCAL_BYTES + lengths


def _open(source: Source, member: Member, where: str, context: Context) -> Source | Finding:
    at = _data_at(source, member)
    if at + member.stored > source.size:
        return damaged(where, f"it ends {at + member.stored - source.size:,} bytes behind the end of the file")
    if member.method == zipfile.ZIP_STORED:
        return Source(where, Window(source.file, at, member.stored).buffered(), member.stored, whole=True)
    try:
        data = _unpack(source, at, member, min(member.size, IN_MEMORY))
    except (zlib.error, OSError, ValueError, EOFError, RuntimeError, NotImplementedError) as error:
        return damaged(where, f"it cannot be unpacked ({error})")
    context.count_unpacked(len(data), where)
    if len(data) > min(member.size, IN_MEMORY):
        return Finding(
            where, f"it unpacks to more than the {member.size:,} bytes that it declares", "suspicious",
            "readers that trust the number are led astray", "do not load it",
        )  # fmt: skip
    whole = len(data) >= member.size
    return Source.of_bytes(where, data, whole=whole) if whole or member.size > IN_MEMORY else damaged(
        where, f"it unpacks to {len(data):,} bytes, and declares {member.size:,}"
    )  # fmt: skip


def _unpack(source: Source, at: int, member: Member, limit: int) -> bytes:
    """At most one byte more than ``limit``, so that a member which goes on behind its declared end is seen."""
    machine: _Decompressor
    if member.method == zipfile.ZIP_DEFLATED:
        machine = zlib.decompressobj(-15)
    elif member.method == zipfile.ZIP_BZIP2:
        machine = bz2.BZ2Decompressor()
    else:
        raise NotImplementedError(f"by method {member.method}")
    parts: list[bytes] = []
    left, position, end = limit + 1, at, at + member.stored
    pending = b""
    while left > 0:
        fed = pending or source.read(position, min(_CHUNK, end - position))
        position += 0 if pending else len(fed)
        data = machine.decompress(fed, left)
        parts.append(data)
        left -= len(data)
        pending = getattr(machine, "unconsumed_tail", b"")
        if getattr(machine, "eof", False) or (not data and not fed):
            break
    return b"".join(parts)


def reads_as_zip(source: Source) -> bool:
    """Whether zipfile would take the source for an archive, wherever in it the archive lies."""
    try:
        source.file.seek(0)
        with zipfile.ZipFile(source.file) as archive:
            return bool(archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, IndexError, OSError):
        return False
