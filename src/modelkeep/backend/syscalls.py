"""The calls to the operating system that a local keep makes, each once, with errors that say what to do.

All of `local` goes through here, so that a test can stand in for the kernel.
"""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelkeep.errors import StorageError

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EXDEV})
_WAYS_OUT = {
    errno.ENOSPC: "free some space or `modelkeep gc` the keep; checkpoints already committed are intact",
    errno.EDQUOT: "raise the quota or `modelkeep gc` the keep; checkpoints already committed are intact",
    errno.EACCES: "check who owns the folder and its permissions",
    errno.EPERM: "check who owns the folder and its permissions",
    errno.EROFS: "the file system is mounted read-only; name another keep",
    errno.EIO: "the device reports an error; checkpoints already committed are intact where it can still read",
    errno.ENOTDIR: "a part of the path is a file; name a folder",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
}


@contextmanager
def explained(what: str, path: Path | str) -> Iterator[None]:
    """Turn an OSError inside the block into a StorageError with the path, the reason and a way out."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise StorageError(_explain(what, path, error)) from error


def _explain(what: str, path: Path | str, error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    text = f"could not {what} {path}: {reason.lower()}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += f" ({free_bytes(Path(path).parent):,} bytes free)"
    way_out = _WAYS_OUT.get(error.errno or 0)
    return f"{text}; {way_out}" if way_out else text


def free_bytes(folder: Path) -> int:
    """Bytes that an unprivileged user may still write at ``folder``, 0 when that cannot be known."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def open_new(path: Path) -> int:
    """Create a file for writing; FileExistsError if the name is taken, and links are not followed."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def open_read(path: Path) -> int:
    """Open for reading; never through a link, and never waiting for a pipe."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def write(descriptor: int, data: memoryview | bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done


def sync(descriptor: int) -> None:
    """Make the file's bytes durable. A failure is final: the kernel may have dropped what it could not write."""
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without this call makes names durable by itself
            raise
    finally:
        os.close(descriptor)


def publish(temporary: Path, path: Path) -> bool:
    """Give a finished file its name, if nobody has it; FileExistsError otherwise.

    Returns: True if it was done by ``link`` or ``renameat2``, both atomic; False if the file system has neither and
    an empty file under the name was replaced.
    """
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        os.unlink(temporary)
        return True
    if _rename_noreplace(temporary, path):
        return True
    os.close(open_new(path))
    os.rename(temporary, path)
    return False


def _rename_noreplace(source: Path, target: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        raise FileExistsError(code, os.strerror(code), str(target))
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(source))
