"""Where bytes lie: one module for each kind of place, all with the verbs of `base.Backend`."""

import os
from urllib.parse import unquote, urlsplit

from modelkeep.backend.base import Backend, Entry, ObjectWriter
from modelkeep.backend.local import LocalBackend
from modelkeep.backend.memory import MemoryBackend
from modelkeep.backend.mounts import Mount, mount_of
from modelkeep.backend.workers import Workers
from modelkeep.errors import UsageError

__all__ = [
    "Backend",
    "Entry",
    "LocalBackend",
    "MemoryBackend",
    "Mount",
    "ObjectWriter",
    "Workers",
    "mount_of",
    "open_backend",
]


def open_backend(place: str | os.PathLike[str], *, create: bool = True) -> Backend:
    """Open a path, ``file://`` URL or ``memory://NAME``.

    Raises:
        UsageError: another kind of URL, or a ``file://`` URL that names another machine.
        NotFound: the place is not there and ``create`` is False.
        StorageError: the path is a file, or the folder cannot be made.

    >>> open_backend("memory://scratch").url
    'memory://scratch'
    """
    text = os.fspath(place)
    if "://" not in text:
        return LocalBackend(text, create=create)
    parts = urlsplit(text)
    if parts.scheme == "memory":
        return MemoryBackend(parts.netloc + parts.path, create=create)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise UsageError(f"{text} names the machine {parts.netloc}; give a path, or file:///PATH")
        return LocalBackend(unquote(parts.path), create=create)
    raise UsageError(f"{parts.scheme}:// is not a kind of keep; give a path, file:///PATH or memory://NAME")
