"""Folders: every file below, with links that lead out of it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from modelkeep.errors import StorageError
from modelkeep.scan.findings import Finding, damaged
from modelkeep.scan.source import Context, Source


def findings(root: Path, context: Context) -> list[Finding]:
    """Findings of all files below ``root``; links are followed to files within it alone."""
    return [one for path in _below(root) for one in _of_path(path, root, context)]


def _below(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, onerror=_refused):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders.sort()
        for name in sorted([*names, *links]):
            yield Path(folder) / name


def _refused(error: OSError) -> None:
    raise StorageError(f"{error.filename}: it cannot be listed ({error.strerror})")


def _of_path(path: Path, root: Path, context: Context) -> list[Finding]:
    where = path.relative_to(root).as_posix()
    context.count_file(where)
    target = path
    if path.is_symlink():
        target = path.resolve()
        if not target.is_relative_to(root.resolve()) and not _in_hub_cache(target, root):
            what, why = f"a symbolic link to {path.readlink()}", "whoever loads the folder opens what it leads to"
            return [Finding(where, what, "unsafe", why, "remove the link, or copy the file that is meant")]
        if target.is_dir():
            return []  # it lies within the folder, and is met there
        if not target.exists():
            return [damaged(where, f"a symbolic link to {path.readlink()}, which is missing")]
    if not stat.S_ISREG(target.stat().st_mode):
        return [
            Finding(
                where, "a device, a pipe or another special file", "unsafe", "reading it may never end", "remove it"
            )
        ]
    with open_regular(target) as file:
        source = Source(where, file, os.fstat(file.fileno()).st_size, folder=path.parent)
        return context.look(source, context)


def _in_hub_cache(target: Path, root: Path) -> bool:
    """Whether a link leads where the cache of Hugging Face keeps the files of its snapshots."""
    snapshots = root.resolve().parent
    return snapshots.name == "snapshots" and target.is_relative_to(snapshots.parent / "blobs")


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, without waiting for a pipe. Raises StorageError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"{path}: it cannot be opened ({error.strerror})") from error
    return os.fdopen(descriptor, "rb")
