"""Where bytes lie: one module for each kind of place, all with the verbs of `base.Backend`."""

import os
from urllib.parse import unquote, urlsplit

from modelkeep.backend.base import SHARD_BYTES, Backend, Entry, ObjectWriter
from modelkeep.backend.local import LocalBackend
from modelkeep.backend.memory import MemoryBackend
from modelkeep.backend.mounts import Mount, mount_of
from modelkeep.backend.staged import staged
from modelkeep.backend.workers import Workers, step_back
from modelkeep.errors import UsageError

SCHEMES = ("s3", "gs", "az")
"""The kinds of object stores."""

__all__ = [
    "SHARD_BYTES",
    "Backend",
    "Entry",
    "LocalBackend",
    "MemoryBackend",
    "Mount",
    "ObjectWriter",
    "Workers",
    "mount_of",
    "open_backend",
    "staged",
    "step_back",
]


def open_backend(place: str | os.PathLike[str], *, create: bool = True) -> Backend:
    """Open a path, ``file://`` URL, ``memory://NAME``, or a prefix in an object store, such as ``s3://BUCKET/PREFIX``.

    Of an object store nothing is asked yet.

    Raises:
        UsageError: another kind of URL, a ``file://`` URL that names another machine, or obstore is not installed.
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
    if parts.scheme in SCHEMES:
        return _in_object_store(text)
    raise UsageError(
        f"{parts.scheme}:// is not a kind of keep; give a path, file:///PATH, memory://NAME or "
        f"{', '.join(f'{one}://' for one in SCHEMES)} with BUCKET/PREFIX"
    )


def _in_object_store(url: str) -> Backend:
    try:
        from modelkeep.backend.objects import ObjectBackend
    except ImportError:
        raise UsageError(f"{url} needs obstore; pip install 'modelkeep[s3]' brings it") from None
    return ObjectBackend(url)
