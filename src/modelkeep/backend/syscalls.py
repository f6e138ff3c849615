"""The calls to the operating system that a local keep makes, each once, with errors that say what to do.

All of `local` goes through here, so that a test can stand in for the kernel.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    errno.ENOENT: "the folder was removed while the keep was in use; restore it, or start again",
    errno.EFBIG: "this process may not write files that long; raise `ulimit -f`",
    errno.ENOLCK: "this file system has no locks; name a keep on a local disk",
}
_NO_PLACE = "nothing can be made there; name a keep on a disk, or start again if the folder was removed just now"
_NO_ALLOCATION = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM})
_WAY_OUT = "mend the storage and start again; checkpoints already committed are intact"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# exFAT, SMB and mounted drives refuse to change permissions; 0444 is a guard rail, nothing depends on it.
_NO_MODES = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


@contextmanager
def explained(
    what: str, path: Path | str, *, wanted: int = 0, passing: type[OSError] | tuple[type[OSError], ...] = ()
) -> Iterator[None]:
    """Turn an OSError inside the block into a StorageError with the path, the reason, numbers and a way out.

    ``wanted``: bytes that the block writes. ``passing``: what the caller itself looks at, and is raised as it is.
    """
    try:
        yield
    except passing:
        raise
    except OSError as error:
        raise StorageError(_explain(what, path, error, wanted)) from error


def _explain(what: str, path: Path | str, error: OSError, wanted: int) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    text = f"could not {what} {path}: {reason.lower()}"
    if error.errno in _FULL:
        free = free_bytes(Path(path).parent)
        text += f" ({wanted:,} bytes wanted, {'an unknown number of' if free is None else f'{free:,}'} bytes free)"
    is_no_place = what == "create" and error.errno == errno.ENOENT  # /proc and its like; nothing was in use yet
    return f"{text}; {_NO_PLACE if is_no_place else _WAYS_OUT.get(error.errno or 0, _WAY_OUT)}"


def free_bytes(folder: Path) -> int | None:
    """Bytes that an unprivileged user may still write at ``folder``, None when that cannot be known.

    Mounted drives and containers may tell nothing, or a disk of 0 bytes, and take what is written all the same.
    """
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None


def open_new(path: Path) -> int:
    """Create a file for writing; FileExistsError if the name is taken, and links are not followed."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def open_direct(path: Path) -> int | None:
    """Open a file of ours again, for writes past the page cache; None where the file system has no such thing."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | getattr(os, "O_DIRECT", 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def open_read(path: Path) -> int:
    """Open for reading; never through a link, and never waiting for a pipe."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def open_lock(path: Path) -> int:
    """Open a lock, made if it is not there; never through a link, and nothing but a regular file."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file, which the kernel frees when its last descriptor is closed; False when held."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def close(descriptor: int) -> None:
    """Let go of an open file."""
    os.close(descriptor)


def status(descriptor: int) -> os.stat_result:
    """Size, time and kind of an open file."""
    return os.fstat(descriptor)


def read(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Read into ``buffer`` from ``offset``; return how many bytes came, 0 at the end."""
    return os.preadv(descriptor, [buffer], offset)


def mode(path: Path) -> int:
    """What kind of file has this name, as `stat` tells it, a symbolic link being one; 0 where there is none."""
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def make_folder(folder: Path) -> None:
    """Make one folder; one that is there is fine, a file under its name is NotADirectoryError."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def forget(path: Path) -> None:
    """Drop a durable file from the page cache, where the system can: it is then read from the disk."""
    descriptor = open_read(path)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def scan(folder: Path) -> list["os.DirEntry[str]"]:
    """The entries of a folder."""
    with os.scandir(folder) as entries:
        return list(entries)


def remove(path: Path) -> None:
    """Take a name away; FileNotFoundError when it is not there."""
    os.unlink(path)


def protect(descriptor: int) -> None:
    """Make a finished file read-only, where the file system knows such a thing."""
    try:
        os.fchmod(descriptor, 0o444)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise


def truncate(descriptor: int, size: int = 0) -> None:
    """Cut an open file to ``size`` bytes."""
    os.ftruncate(descriptor, size)


def write(descriptor: int, data: memoryview | bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done


def allocate(descriptor: int, size: int) -> None:
    """Have room for ``size`` bytes set aside, where the file system can: it then writes back in long runs."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _NO_ALLOCATION:
            raise


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
    if _link(temporary, path):
        with suppress(OSError):  # the object is there; its second name is cleaned some day
            remove(temporary)
        return True
    if _rename_noreplace(temporary, path):
        return True
    os.close(open_new(path))
    try:
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):  # the name is ours, and an object without bytes would hold it for good
            remove(path)
        raise
    return False


def _link(temporary: Path, path: Path) -> bool:
    """Give a file a second name; False where the file system has no links."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        # Over a network the answer may be lost: the call that is repeated then finds the name that it has made itself.
        if not _is_its_name(path, temporary):
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _is_its_name(path: Path, temporary: Path) -> bool:
    """Whether a name that is taken is one of our own file; an OSError where that cannot be known."""
    ours = os.lstat(temporary)
    try:
        return os.path.samestat(ours, os.lstat(path))
    except FileNotFoundError:  # whoever had it has let go of it since
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
