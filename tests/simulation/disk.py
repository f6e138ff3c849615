"""The twin of a file system: what programs see of it, and what of that would outlive a power cut.

Each file and folder has two views. The volatile one is what the calls show; the durable one is what was synced. What
lies between the two, in the order in which it came, is what `power` plays with. The verbs are those of `os`, with its
arguments, results and errors, and `test_twin` compares the two; a flag that the twin does not know is `UnknownCall`.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

BLOCK = 4096
"""What direct writes are aligned to, and the unit in which a power cut tears others."""

_KNOWN_FLAGS = (
    os.O_RDWR | os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    | os.O_DIRECTORY | os.O_DIRECT
)  # fmt: skip
_FREE_BYTES = 1 << 40


class UnknownCall(BaseException):
    """The code asks something of the kernel that the twin has never heard of: teach the twin first."""


@dataclass(eq=False, slots=True)
class Write:
    """Bytes that were written and not synced."""

    stamp: int
    offset: int
    data: bytes


@dataclass(eq=False, slots=True)
class Resize:
    """A size that was set and not synced."""

    stamp: int
    size: int


@dataclass(eq=False, slots=True)
class Names:
    """Names that came (with what they name) or went (None) together, and were not synced."""

    stamp: int
    changed: dict[str, "Node | None"]


@dataclass(eq=False, slots=True)
class File:
    """Bytes: as they are seen, as they were at the last sync, and the way from the one to the other."""

    number: int
    time: float
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[Write | Resize] = field(default_factory=list)
    mode: int = stat.S_IFREG | 0o644
    links: int = 1
    spoilt: bool = False
    """A sync has failed: the kernel has dropped what it could not write, and later syncs succeed without it."""
    lock: int = 0
    """The descriptor that holds it."""


@dataclass(eq=False, slots=True)
class Folder:
    """Names: as they are seen, as they were at the last sync, and the way from the one to the other."""

    number: int
    time: float
    names: dict[str, "Node"] = field(default_factory=dict)
    durable: dict[str, "Node"] = field(default_factory=dict)
    pending: list[Names] = field(default_factory=list)
    mode: int = stat.S_IFDIR | 0o755
    links: int = 2


Node = File | Folder


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a file system can; what it cannot it refuses as a kernel does."""

    links: bool = True
    noreplace: bool = True
    direct: bool = True
    allocation: bool = True
    folder_sync: bool = True


@dataclass(eq=False, slots=True)
class _Opened:
    node: Node
    path: str
    flags: int


class Disk:
    """A file system in memory, mounted at ``/twin``."""

    def __init__(self, clock: Callable[[], float], abilities: Abilities, root: Folder | None = None) -> None:
        self.clock = clock
        self.abilities = abilities
        self.stamp = 0
        """Counts the changes, so that they have one order over all files."""
        self.full = False
        self._number = 1
        self._opened: dict[int, _Opened] = {}
        self._descriptor = 1 << 30  # none is ever used twice, so that a second close is seen
        self.root = root or self._with_mount()

    # Names

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & ~_KNOWN_FLAGS:
            raise UnknownCall(f"open with the flags {flags & ~_KNOWN_FLAGS:#x}")
        folder, name = self._place(path)
        node = folder.names.get(name)
        if node is None:
            if not flags & os.O_CREAT:
                raise _error(errno.ENOENT, path)
            node = File(self._next_number(), self.clock(), mode=stat.S_IFREG | (mode & 0o755))
            self._rename(folder, {name: node})
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise _error(errno.EEXIST, path)
        if isinstance(node, Folder) and flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise _error(errno.EISDIR, path)
        if flags & os.O_DIRECTORY and isinstance(node, File):
            raise _error(errno.ENOTDIR, path)
        if flags & os.O_DIRECT == os.O_DIRECT and not self.abilities.direct:
            raise _error(errno.EINVAL, path)
        self._descriptor += 1
        self._opened[self._descriptor] = _Opened(node, os.fspath(path), flags)
        return self._descriptor

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        folder, name = self._place(path)
        if name in folder.names:
            raise _error(errno.EEXIST, path)
        self._rename(folder, {name: Folder(self._next_number(), self.clock())})
        folder.links += 1

    def link(self, source: Any, target: Any, *, follow_symlinks: bool = True) -> None:
        node = self._node(source)
        folder, name = self._place(target)
        if name in folder.names:
            raise _error(errno.EEXIST, target)
        if not self.abilities.links or isinstance(node, Folder):
            raise _error(errno.EPERM, target)
        node.links += 1
        self._rename(folder, {name: node})

    def unlink(self, path: Any) -> None:
        folder, name = self._place(path)
        node = folder.names.get(name)
        if node is None:
            raise _error(errno.ENOENT, path)
        if isinstance(node, Folder):
            raise _error(errno.EISDIR, path)
        node.links -= 1
        self._rename(folder, {name: None})

    def rename(self, source: Any, target: Any) -> None:
        """Within one folder, as `syscalls` does: the two names change together or not at all."""
        node = self._node(source)
        folder, name = self._place(target)
        if self._place(source)[0] is not folder or isinstance(node, Folder):
            raise UnknownCall(f"rename of a folder, or from one folder to another: {source} to {target}")
        replaced = folder.names.get(name)
        if isinstance(replaced, Folder):
            raise _error(errno.EISDIR, target)
        if replaced is node:
            return
        if replaced is not None:
            replaced.links -= 1
        self._rename(folder, {os.path.basename(os.fspath(source)): None, name: node})

    def renameat2(self, source: Any, target: Any) -> None:
        """With RENAME_NOREPLACE."""
        if not self.abilities.noreplace:
            raise _error(errno.ENOSYS, target)
        folder, name = self._place(target)
        if name in folder.names:
            raise _error(errno.EEXIST, target)
        self.rename(source, target)

    def lstat(self, path: Any) -> os.stat_result:
        return _status(self._node(path))

    def scandir(self, path: Any) -> "Scan":
        node = self._node(path)
        if isinstance(node, File):
            raise _error(errno.ENOTDIR, path)
        # In no order that anybody may count on.
        return Scan([DirEntry(self, os.fspath(path), name, node) for name, node in reversed(node.names.items())])

    # Open files

    def close(self, descriptor: int) -> None:
        node = self._get(descriptor).node
        del self._opened[descriptor]
        if isinstance(node, File) and node.lock == descriptor:
            node.lock = 0

    def fstat(self, descriptor: int) -> os.stat_result:
        return _status(self._get(descriptor).node)

    def preadv(self, descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        if self._get(descriptor).flags & os.O_WRONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        file, done = self._file(descriptor), 0
        for buffer in buffers:
            part = file.data[offset + done : offset + done + len(buffer)]
            buffer[: len(part)] = part
            done += len(part)
        return done

    def pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        file = self._written(descriptor)
        written = bytes(data)
        if self._get(descriptor).flags & os.O_DIRECT == os.O_DIRECT and (offset % BLOCK or len(written) % BLOCK):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if not written:
            return 0
        if offset > len(file.data):
            file.data.extend(bytes(offset - len(file.data)))
        file.data[offset : offset + len(written)] = written
        file.pending.append(Write(self._next_stamp(), offset, written))
        return len(written)

    def ftruncate(self, descriptor: int, size: int) -> None:
        file = self._written(descriptor, errno.EINVAL)
        if size != len(file.data):
            self._resize(file, size)

    def posix_fallocate(self, descriptor: int, offset: int, size: int) -> None:
        file = self._written(descriptor)
        if not self.abilities.allocation:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if offset + size > len(file.data):
            self._resize(file, offset + size)

    def fchmod(self, descriptor: int, mode: int) -> None:
        node = self._get(descriptor).node
        node.mode = stat.S_IFMT(node.mode) | mode

    def posix_fadvise(self, descriptor: int, offset: int, size: int, advice: int) -> None:
        self._file(descriptor)

    def fsync(self, descriptor: int) -> None:
        node = self._get(descriptor).node
        if isinstance(node, Folder):
            if not self.abilities.folder_sync:
                node.durable, node.pending = dict(node.names), []  # names are durable by themselves there
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            node.durable, node.pending = dict(node.names), []
        elif not node.spoilt:
            node.durable, node.pending = bytes(node.data), []

    def spoil(self, descriptor: int) -> None:
        """A sync fails for good: nothing that waits in the file comes to the disk, whatever is synced later."""
        node = self._get(descriptor).node
        if isinstance(node, File):
            node.spoilt = True

    def flock(self, descriptor: int, operation: int) -> None:
        file = self._file(descriptor)
        if file.lock not in (0, descriptor):
            raise OSError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        file.lock = descriptor

    def disk_usage(self, path: Any) -> Any:
        self._node(path)
        free = 0 if self.full else _FREE_BYTES
        return shutil._ntuple_diskusage(2 * _FREE_BYTES, 2 * _FREE_BYTES - free, free)

    # What tests look at

    def path_of(self, descriptor: int) -> str:
        """The path under which a file was opened."""
        return self._opened[descriptor].path if descriptor in self._opened else ""

    def descriptors(self) -> list[int]:
        """What is open."""
        return list(self._opened)

    # How it is done

    def _with_mount(self) -> Folder:
        root = Folder(0, self.clock())
        root.names["twin"] = root.durable["twin"] = Folder(self._next_number(), self.clock())
        return root

    def _place(self, path: Any) -> tuple[Folder, str]:
        *parts, name = os.fspath(path).split("/")[1:]
        node: Node | None = self.root
        for part in parts:
            if isinstance(node, File):
                raise _error(errno.ENOTDIR, path)
            node = node.names.get(part)
            if node is None:
                raise _error(errno.ENOENT, path)
        if isinstance(node, File):
            raise _error(errno.ENOTDIR, path)
        return node, name

    def _node(self, path: Any) -> Node:
        folder, name = self._place(path)
        node = folder.names.get(name) if name else folder
        if node is None:
            raise _error(errno.ENOENT, path)
        return node

    def _get(self, descriptor: int) -> _Opened:
        if descriptor not in self._opened:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._opened[descriptor]

    def _file(self, descriptor: int) -> File:
        node = self._get(descriptor).node
        if isinstance(node, Folder):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return node

    def _written(self, descriptor: int, refusal: int = errno.EBADF) -> File:
        if not self._get(descriptor).flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(refusal, os.strerror(refusal))
        file = self._file(descriptor)
        file.time = self.clock()
        return file

    def _resize(self, file: File, size: int) -> None:
        del file.data[size:]
        file.data.extend(bytes(size - len(file.data)))
        file.pending.append(Resize(self._next_stamp(), size))

    def _rename(self, folder: Folder, changed: dict[str, Node | None]) -> None:
        for name, node in changed.items():
            if node is None:
                del folder.names[name]
            else:
                folder.names[name] = node
        folder.time = self.clock()
        folder.pending.append(Names(self._next_stamp(), changed))

    def _next_stamp(self) -> int:
        self.stamp += 1
        return self.stamp

    def _next_number(self) -> int:
        self._number += 1
        return self._number


class DirEntry:
    """What `os.scandir` yields: kind as it was then, status as it is when it is asked for."""

    def __init__(self, disk: Disk, folder: str, name: str, node: Node) -> None:
        self.name, self.path = name, f"{folder}/{name}"
        self._disk, self._node = disk, node

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return isinstance(self._node, Folder)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return self._disk.lstat(self.path)


class Scan:
    """The entries of a folder, to be iterated in a ``with``."""

    def __init__(self, entries: list[DirEntry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[DirEntry]:
        return iter(self._entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return


def _status(node: Node) -> os.stat_result:
    size = len(node.data) if isinstance(node, File) else BLOCK
    return os.stat_result((node.mode, node.number, 1, node.links, 0, 0, size, node.time, node.time, node.time))


def _error(code: int, path: Any) -> OSError:
    return OSError(code, os.strerror(code), os.fspath(path))
