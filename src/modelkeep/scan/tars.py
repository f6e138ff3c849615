"""Tar archives: members where they lie, links and names that lead out; nothing is extracted."""

import tarfile
from collections.abc import Iterator

from modelkeep.scan.findings import Finding, beyond, damaged
from modelkeep.scan.source import ARCHIVES_DEEP, Context, Source, Window, leaves_folder

_MAGIC_AT, _MAGIC = 257, b"ustar"


def looks_like(source: Source) -> bool:
    """Whether its first header is one of tar."""
    return source.read(_MAGIC_AT, len(_MAGIC)) == _MAGIC


def findings(source: Source, context: Context) -> list[Finding]:
    """Findings of the archive and of all members. Raises LimitExceeded for more members than the budget has."""
    if context.depth >= ARCHIVES_DEEP:
        return [beyond(source.name, f"an archive within {context.depth} others", "unpack it by hand, if you trust it")]
    found: list[Finding] = []
    if not source.whole:
        found.append(
            beyond(source.name, "a compressed archive of which the first part alone was looked at", "unpack it")
        )
    try:
        source.file.seek(0)
        with tarfile.open(fileobj=source.file, mode="r:") as archive:
            for member in archive:
                found.extend(_of_member(source, member, context))
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        if source.whole:
            found.append(damaged(source.name, f"the archive cannot be read ({str(error)[:100]})"))
    return found


def _of_member(source: Source, member: tarfile.TarInfo, context: Context) -> Iterator[Finding]:
    where = f"{source.name}!{member.name}"
    context.count_file(where)
    if leaves_folder(member.name):
        why = "unpacked, it is written outside the folder that was meant"
        yield Finding(where, "a name that leads out of the archive", "unsafe", why, "do not unpack it")
    if member.issym() or member.islnk():
        if leaves_folder(member.linkname):
            what, why = f"a link to {member.linkname[:200]}", "unpacked, it leads to a file outside the archive"
            yield Finding(where, what, "unsafe", why, "do not unpack it")
    elif not (member.isreg() or member.isdir()):
        what, why = "a device, a pipe or another special file", "no model has one"
        yield Finding(where, what, "unsafe", why, "do not unpack it")
    elif member.isreg() and not member.issparse():
        size = min(member.size, max(0, source.size - member.offset_data))
        window = Window(source.file, member.offset_data, size).buffered()
        yield from context.look(Source(where, window, size, whole=size == member.size), context.deeper())
    elif member.issparse():
        yield Finding(where, "a sparse member", "suspicious", "its bytes are not where others are", "pack it anew")
