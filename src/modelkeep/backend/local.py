"""A keep in a directory: durable by fsync, create-if-absent by ``link``, locks by ``flock``."""

import errno
import os
import re
import secrets
import stat
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from modelkeep.backend import syscalls
from modelkeep.backend.base import SHARD_BYTES, Entry, SeenAtOnce, check_key, check_limit, too_short
from modelkeep.backend.stream import BLOCK, Buffers, DirectStream
from modelkeep.errors import AlreadyExists, Damaged, NotFound, RunLocked, StorageError

_LARGE = 8 << 20
"""Bytes from which on an object is allocated in long runs and written past the page cache."""

_RUN = 256 << 20
"""Bytes that are allocated at a time for an object whose size nobody knows."""

_UNFINISHED = re.compile(r"\.(?P<name>.+)\.[0-9]+-[0-9a-f]{8}\.tmp")
"""The temporary name of an object; whatever else begins with a dot is not ours to remove."""


@dataclass
class _Held:
    """A lock that this process holds, and how many times."""

    descriptor: int
    """-1 when a fork has let go of it."""
    count: int = 1


@dataclass
class _Locks:
    """The locks of this process: ``flock`` belongs to a descriptor, so re-entrance is counted here."""

    guard: threading.Lock = field(default_factory=threading.Lock)
    held: dict[str, _Held] = field(default_factory=dict)


_LOCKS = _Locks()


def _let_go_of_all() -> None:
    """In a forked child: the locks are the parent's, and would outlive its death in the child's copies."""
    _LOCKS.guard = threading.Lock()  # a thread that is not in the child may have held it
    for held in _LOCKS.held.values():
        syscalls.close(held.descriptor)
        held.descriptor = -1
    _LOCKS.held.clear()


os.register_at_fork(after_in_child=_let_go_of_all)


class LocalBackend(SeenAtOnce):
    """Objects as files below a folder.

    Raises:
        StorageError: the folder cannot be made, or the path is a file.
        NotFound: the folder is not there and ``create`` is False.

    >>> import tempfile
    >>> place = LocalBackend(tempfile.mkdtemp())
    >>> place.create("a/b", b"hello")
    >>> place.read("a/b", 1, 3)
    b'el'
    """

    exclusive_locks = True
    shard_bytes = SHARD_BYTES
    requests = 1

    def __init__(self, folder: str | os.PathLike[str], *, create: bool = True) -> None:
        self._folder = Path(os.path.abspath(os.path.expanduser(folder)))
        self.buffers = Buffers()
        """Memory for writing large objects, used again and again."""
        self._known: set[Path] = set()
        self._unlinked: set[Path] = {self._folder}
        """Folders that are no symbolic links, nor lie behind one."""
        self._warned = False
        with syscalls.explained("open", self._folder):
            there, is_folder = self._folder.exists(), self._folder.is_dir()
        if there and not is_folder:
            raise StorageError(f"{self._folder} is a file, and a keep is a folder; name another path")
        if not there:
            if not create:
                raise NotFound(
                    f"there is no folder {self._folder}; name a keep that is there, or create it with open()"
                )
            with syscalls.explained("create", self._folder):
                self.make_folder(self._folder)

    @property
    def url(self) -> str:
        return self._folder.as_uri()

    @property
    def folder(self) -> Path:
        """The folder, absolute."""
        return self._folder

    def read(self, key: str, start: int = 0, end: int | None = None, *, limit: int | None = None) -> bytes:
        with self._open(key) as descriptor:
            size = syscalls.status(descriptor).st_size
            stop = size if end is None else end
            if not 0 <= start <= stop <= size:
                raise too_short(key, stop, size)
            check_limit(key, stop - start, limit)
            buffer = bytearray(stop - start)
            self._fill(key, descriptor, start, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        with self._open(key) as descriptor:
            self._fill(key, descriptor, start, buffer.cast("B"))

    def create(self, key: str, data: bytes | bytearray) -> None:
        with self.writer(key, size_hint=len(data)) as writer:
            writer.append(memoryview(data))
            writer.commit()

    def settle(self, key: str) -> None:
        path = self._path(key)
        with self._open(key) as descriptor, syscalls.explained("make durable", path):
            syscalls.sync(descriptor)
            self.make_folder(path.parent)
            syscalls.sync_folder(path.parent)

    def writer(self, key: str, *, size_hint: int = 0) -> "LocalWriter":
        path = self._path(key)
        with syscalls.explained("make the folder of", path):
            self.make_folder(path.parent)
        free = syscalls.free_bytes(path.parent)
        if free is not None and size_hint > free:
            raise StorageError(
                f"could not write {path}: {size_hint:,} bytes wanted and {free:,} free; free some space or "
                "`modelkeep gc` the keep; checkpoints already committed are intact"
            )
        return LocalWriter(self, key, path, size_hint)

    def size(self, key: str) -> int:
        with self._open(key) as descriptor:
            return syscalls.status(descriptor).st_size

    def list(self, prefix: str, *, limit: int | None = None) -> Iterator[Entry]:
        root = self._folder_of(prefix)
        return islice(self._walk(root, prefix) if root is not None else (), limit)

    def folders(self, prefix: str) -> Iterator[str]:
        root = self._folder_of(prefix)
        if root is None:
            return
        try:
            with syscalls.explained("list", root, passing=(FileNotFoundError, NotADirectoryError)):
                entries = syscalls.scan(root)
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with suppress(FileNotFoundError), syscalls.explained("delete", path, passing=FileNotFoundError):
            syscalls.remove(path)

    def now(self) -> float:
        return time.time()

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        path = self._path(key)
        with syscalls.explained("make the folder of", path):
            self.make_folder(path.parent)
        # One lock under two names of the keep's folder is still one, and this process holds it once.
        path = Path(os.path.realpath(path.parent), path.name)
        with _LOCKS.guard:
            held = _hold(path, key)
        try:
            yield
        finally:
            with _LOCKS.guard:
                _let_go(path, held)

    def clean(self, prefix: str, older_than: float) -> int:
        root, key = (self._path(prefix), prefix) if prefix else (self._folder, "")
        with syscalls.explained("list", root):
            if not root.is_dir() or root.is_symlink():
                root, key = root.parent, prefix.rpartition("/")[0]
        removed = 0
        for entry, begun in self._unfinished(root, key):
            if not begun.startswith(prefix):
                continue
            with suppress(FileNotFoundError), syscalls.explained("remove", entry.path, passing=FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < older_than:
                    syscalls.remove(Path(entry.path))
                    removed += 1
        return removed

    def tell_links_are_missing(self) -> None:
        """Say once that this file system cannot create-if-absent in one atomic step."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the file system of {self._folder} has neither hard links nor renameat2: two processes that "
                "write the same run at the same moment are told apart less safely; a local disk is better",
                RuntimeWarning,
                stacklevel=4,
            )

    def _path(self, key: str) -> Path:
        path = self._folder / check_key(key)
        link = self._link_above(path.parent)
        if link is not None:
            raise Damaged(f"{key}: {link} is a symbolic link, which no keep holds; it was not followed", key)
        return path

    def _folder_of(self, prefix: str) -> Path | None:
        """The folder to list for ``prefix``; None where a symbolic link stands in the way: nothing of ours is there."""
        root = self._folder / check_key(prefix) if prefix else self._folder
        return None if self._link_above(root) is not None else root

    def _link_above(self, folder: Path) -> Path | None:
        """The symbolic link that ``folder`` is or lies behind, above it the keep; None for a folder that is ours."""
        if folder in self._unlinked:
            return None
        above = self._link_above(folder.parent)
        if above is not None:
            return above
        with syscalls.explained("look at", folder):
            mode = syscalls.mode(folder)
        if stat.S_ISDIR(mode):
            self._unlinked.add(folder)
        return folder if stat.S_ISLNK(mode) else None

    def make_folder(self, folder: Path, *, anew: bool = False) -> None:
        """Create a folder and its parents, each durable in the one above.

        A folder that is there may be one whose maker was killed before it was durable: each is synced once.
        """
        if anew:
            self._known.clear()
        if folder in self._known:
            return
        if folder == self._folder:
            self._make_root()
        else:
            self.make_folder(folder.parent)
            syscalls.make_folder(folder)
            syscalls.sync_folder(folder.parent)
        self._known.add(folder)

    def _make_root(self) -> None:
        if self._folder.is_dir():
            with suppress(PermissionError):  # a parent that we may not read is not ours to make durable
                syscalls.sync_folder(self._folder.parent)
            return
        missing = [self._folder]
        while not missing[-1].parent.is_dir():
            missing.append(missing[-1].parent)
        for one in reversed(missing):
            syscalls.make_folder(one)
            syscalls.sync_folder(one.parent)

    @contextmanager
    def _open(self, key: str) -> Iterator[int]:
        path = self._path(key)
        with syscalls.explained("read", path):
            try:
                descriptor = syscalls.open_read(path)
            except (FileNotFoundError, NotADirectoryError):
                raise NotFound(f"there is no object {key} in {self.url}") from None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise Damaged(f"{key} is a symbolic link, which no keep holds; it was not followed", key) from None
                raise
            try:
                if not stat.S_ISREG(syscalls.status(descriptor).st_mode):
                    raise Damaged(f"{key} is not a regular file, and a keep holds nothing else", key)
                yield descriptor
            finally:
                syscalls.close(descriptor)

    def _fill(self, key: str, descriptor: int, start: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            count = syscalls.read(descriptor, buffer[done:], start + done)
            if count == 0:
                raise too_short(key, start + len(buffer), start + done)
            done += count

    def _walk(self, root: Path, prefix: str) -> Iterator[Entry]:
        try:
            with syscalls.explained("list", root, passing=(FileNotFoundError, NotADirectoryError)):
                entries = sorted(syscalls.scan(root), key=_sort_name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            key = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), key)
            elif not entry.name.startswith("."):
                with suppress(FileNotFoundError):
                    with syscalls.explained("look at", entry.path, passing=FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                    yield Entry(key, status.st_size, status.st_mtime)

    def _unfinished(self, root: Path, prefix: str) -> Iterator[tuple["os.DirEntry[str]", str]]:
        """The temporary files below ``root``, each with the key that it would have got."""
        try:
            with syscalls.explained("list", root, passing=(FileNotFoundError, NotADirectoryError)):
                entries = syscalls.scan(root)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            key = f"{prefix}/" if prefix else ""
            if entry.is_dir(follow_symlinks=False):
                yield from self._unfinished(Path(entry.path), key + entry.name)
            elif match := _UNFINISHED.fullmatch(entry.name):
                yield entry, key + match["name"]


class LocalWriter:
    """A file under a temporary name beside its own, until ``commit`` links it there."""

    def __init__(self, backend: LocalBackend, key: str, path: Path, size_hint: int) -> None:
        self._backend = backend
        self._key = key
        self._path = path
        token = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._temporary = path.with_name(f".{path.name}.{token}.tmp")
        self._end = 0
        with syscalls.explained("create", path):
            try:
                self._descriptor: int | None = syscalls.open_new(self._temporary)
            except FileNotFoundError:  # somebody has removed the folder since we made it
                backend.make_folder(path.parent, anew=True)
                self._descriptor = syscalls.open_new(self._temporary)
        self._allocated = 0
        self._stream: DirectStream | None = None
        self._may_stream = self._may_run_ahead = True
        if size_hint >= _LARGE:
            self._allocate(size_hint)

    def reserve(self, size: int) -> None:
        self._end = max(self._end, size)

    def append(self, data: memoryview) -> int:
        offset, self._end = self._end, self._end + data.nbytes
        data = data.cast("B")
        if self._stream is None and self._may_stream and offset + len(data) >= _LARGE:
            data = self._begin_stream(offset, data)
        if self._stream is None:
            self._write(self._end - len(data), data)
            return offset
        if self._may_run_ahead and self._end > self._allocated:
            self._allocate(max(self._end, self._allocated + _RUN), hint=True)
        with syscalls.explained("write", self._path, wanted=len(data)):
            self._stream.append(data)
        return offset

    def write_at(self, offset: int, data: bytes) -> None:
        self._write(offset, data)

    def commit(self) -> None:
        descriptor = self._opened
        try:
            with syscalls.explained("write", self._path, wanted=self._end, passing=FileExistsError):
                if self._stream is not None:
                    self._stream.close()
                if self._allocated > self._end or self._stream is not None:
                    syscalls.truncate(descriptor, self._end)
                syscalls.protect(descriptor)
                syscalls.sync(descriptor)
                if not syscalls.publish(self._temporary, self._path):
                    self._backend.tell_links_are_missing()
            with syscalls.explained("make durable (it is written, and a power cut could still undo it)", self._path):
                syscalls.sync_folder(self._path.parent)
        except FileExistsError:
            raise AlreadyExists(f"{self._key} is in {self._backend.url} already, and objects never change") from None
        finally:
            self.abort()

    def abort(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with suppress(OSError):
                stream.abort()
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with suppress(OSError):  # what went wrong before is what the caller must see
                syscalls.close(descriptor)
            with suppress(OSError):
                syscalls.remove(self._temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()

    @property
    def _opened(self) -> int:
        assert self._descriptor is not None, "a writer commits once, and takes nothing afterwards"
        return self._descriptor

    def _allocate(self, size: int, *, hint: bool = False) -> None:
        """Have room set aside. With ``hint`` more than is known to be needed: where that is not there, never mind.

        What a failed allocation has taken all the same (ext4 keeps it, and the file is as long then) is given back.
        """
        try:
            with syscalls.explained("write", self._path, wanted=size):
                syscalls.allocate(self._opened, size)
        except StorageError:
            if not hint:
                self.abort()
                raise
            self._may_run_ahead = False
            with syscalls.explained("write", self._path):
                syscalls.truncate(self._opened, self._end)
        else:
            self._allocated = size

    def _begin_stream(self, offset: int, data: memoryview) -> memoryview:
        """Go on past the page cache from the next block on; returns what of ``data`` lies there."""
        start = -(-offset // BLOCK) * BLOCK
        self._write(offset, data[: start - offset])
        with syscalls.explained("write", self._path):
            direct = syscalls.open_direct(self._temporary)
        self._may_stream = direct is not None
        if direct is not None:
            self._stream = DirectStream(self._opened, direct, start, self._backend.buffers)
        return data[start - offset :]

    def _write(self, offset: int, data: memoryview | bytes) -> None:
        with syscalls.explained("write", self._path, wanted=len(data)):
            syscalls.write(self._opened, data, offset)


def _hold(path: Path, key: str) -> _Held:
    held = _LOCKS.held.get(str(path))
    if held is not None:
        held.count += 1
        return held
    held = _LOCKS.held[str(path)] = _Held(_take_lock(path, key))
    return held


def _let_go(path: Path, held: _Held) -> None:
    held.count -= 1
    if held.count == 0 and held.descriptor >= 0:
        if _LOCKS.held.get(str(path)) is held:
            del _LOCKS.held[str(path)]
        with suppress(OSError):  # the kernel lets go of it all the same, and nothing was written
            syscalls.close(held.descriptor)


def _take_lock(path: Path, key: str) -> int:
    with syscalls.explained("lock", path):
        descriptor = syscalls.open_lock(path)
        try:
            if not syscalls.try_lock(descriptor):
                found = bytearray(200)
                count = syscalls.read(descriptor, memoryview(found), 0)
                holder = found[:count].decode("utf-8", "replace").strip() or "another process"
                raise RunLocked(f"{key} is held by {holder}; wait for it, or end it, and start again")
            with suppress(OSError):  # a full disk has no room for a name, and `gc` must get its locks to free some
                syscalls.truncate(descriptor)
                syscalls.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        except BaseException:
            syscalls.close(descriptor)
            raise
    return descriptor


def _sort_name(entry: "os.DirEntry[str]") -> str:
    """Folders sort as their keys will: with the slash."""
    return entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
