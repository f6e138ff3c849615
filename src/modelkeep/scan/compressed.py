"""Compressed files: gzip, bzip2, xz and zlib are unpacked in memory, up to a limit; what comes out is scanned."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

from modelkeep.scan.findings import Finding, beyond, damaged
from modelkeep.scan.source import ARCHIVES_DEEP, IN_MEMORY, Context, Source

_MEMORY = 256 << 20
_CHUNK = 1 << 16


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_READ: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(memlimit=_MEMORY),
    b"\x78\x01": zlib.decompressobj, b"\x78\x5e": zlib.decompressobj, b"\x78\x9c": zlib.decompressobj,
    b"\x78\xda": zlib.decompressobj,
}  # fmt: skip
_UNREAD = {b"\x28\xb5\x2f\xfd": "Zstandard", b"\x04\x22\x4d\x18": "LZ4", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR"}


def looks_like(source: Source) -> bool:
    """Whether it begins like a compressed file, and (of zlib, whose magic is two bytes) unpacks."""
    head = source.read(0, 8)
    if any(head.startswith(magic) for magic in _UNREAD):
        return True
    for magic, make in _READ.items():
        if head.startswith(magic):
            if len(magic) > len(b"\x1f\x8b") or head.startswith(b"\x1f\x8b\x08"):
                return True
            try:
                return bool(_unpack(source, make)[0])  # two bytes are no magic, so all of it has to be zlib's
            except (zlib.error, EOFError, ValueError):
                return False
    return False


def findings(source: Source, context: Context) -> list[Finding]:
    """Findings of what comes out. Raises LimitExceeded when all that was unpacked is more than the budget."""
    head = source.read(0, 8)
    for magic, name in _UNREAD.items():
        if head.startswith(magic):
            return [
                beyond(source.name, f"{name}, which this scan does not unpack", "unpack it, and scan what comes out")
            ]
    if context.depth >= ARCHIVES_DEEP:
        return [beyond(source.name, f"an archive within {context.depth} others", "unpack it by hand, if you trust it")]
    make = next(make for magic, make in _READ.items() if head.startswith(magic))
    try:
        data, whole = _unpack(source, make)
    except (zlib.error, OSError, lzma.LZMAError, ValueError, EOFError) as error:
        return [damaged(source.name, f"it cannot be unpacked ({str(error)[:100]})")]
    context.count_unpacked(len(data), source.name)
    name = source.name.removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
    inner = Source.of_bytes(f"{source.name}!{name.replace('!', '/').rsplit('/', 1)[-1]}", data, whole=whole)
    return context.look(inner, context.deeper())


def _unpack(source: Source, make: Callable[[], _Decompressor]) -> tuple[bytes, bool]:
    """The first ``IN_MEMORY`` bytes, over all streams behind each other, and whether these are all."""
    parts: list[bytes] = []
    left, at = IN_MEMORY, 0
    machine, pending = make(), b""
    while left > 0:
        fed = pending or source.read(at, _CHUNK)
        at += 0 if pending else len(fed)
        data = machine.decompress(fed, left)
        parts.append(data)
        left -= len(data)
        pending = getattr(machine, "unconsumed_tail", b"")
        if getattr(machine, "eof", False):
            pending = getattr(machine, "unused_data", b"")
            if not pending.strip(b"\0"):
                return b"".join(parts), True
            try:
                machine = make()
            except EOFError:
                return b"".join(parts), True
        elif not data and not fed:
            if not parts or source.size == 0:
                raise EOFError("it is empty")
            raise EOFError("its end is missing")
    return b"".join(parts), False
