"""From the system calls of a program to the operations on one folder.

What touches the folder in a way that no crash model knows is an error: a model that leaves out a write proves nothing.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .descriptors import Descriptors, OpenFile
from .disk import Tree
from .operations import ROOT, Action, Change, Close, Mark, Mode, Names, Operation, Resize, Trace, Write
from .strace import MARK, UMASK, Born, Call, descriptor_of, path_of, text_of

_BIRTHS = ("clone", "clone3", "fork", "vfork")
_BLIND = ("io_uring_setup", "io_uring_enter", "io_submit", "process_vm_writev", "open_by_handle_at")
"""Calls that write, and whose arguments do not tell where."""
_UNSEEN = frozenset(
    {
        "utimensat",
        "utime",
        "utimes",
        "futimesat",
        "chown",
        "fchown",
        "lchown",
        "fchownat",
        "sync_file_range",
        "readahead",
    }
)
"""Calls that change nothing of what is modelled: times and owners. ``sync_file_range`` makes nothing durable."""
_FCNTL_HARMLESS = (
    "F_GETFD",
    "F_GETFL",
    "F_SETFL",
    "F_GETLK",
    "F_SETLK",
    "F_SETLKW",
    "F_OFD",
    "F_SETLEASE",
    "F_ADD_SEALS",
)


class Unmodelled(AssertionError):
    """A call changed the watched folder in a way that no crash model knows."""


@dataclass
class _Place:
    """A name in a folder of the watched ones."""

    folder: int
    name: str
    inode: int | None
    """What it stands for now."""


@dataclass
class Recorder:
    """Follows the calls of a program, one after another."""

    root: Path
    """The watched folder, without symbolic links above it."""
    cwd: Path
    tree: Tree
    """The folder as it is by now."""
    operations: list[Operation] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    _descriptors: Descriptors = field(default_factory=Descriptors)
    _working: dict[int, str] = field(default_factory=dict)
    _next: int = 0

    def __post_init__(self) -> None:
        self._hex = "".join(f"\\x{byte:02x}" for byte in str(self.root).encode())
        self._next = max([0, *self.tree.folders, *self.tree.files]) + 1

    def trace(self, calls: Iterable[Call | Born], handlers: Mapping[str, "Handler"]) -> Trace:
        """All operations of the calls; ``handlers`` says by name what each call means.

        Raises:
            Unmodelled: one of them did what no model knows.
        """
        for call in calls:
            if isinstance(call, Born):
                self._descriptors.begin_birth(call)
            else:
                self._follow(call, handlers)
        return Trace(tuple(self.operations), tuple(self.marks), frozenset(self.tree.folders))

    def _follow(self, call: Call, handlers: Mapping[str, "Handler"]) -> None:
        if call.name in _BIRTHS:
            self._descriptors.end_birth(call)
        elif call.name in _BLIND and not call.error:
            raise Unmodelled(f"{call.name}({call.text[:200]}): what it writes is not seen in a trace")
        elif call.name in handlers:
            if not call.error or call.name in ("open", "openat"):  # a mark is an open that fails
                handlers[call.name](self, call, call.arguments())
        elif not call.error and call.name not in _UNSEEN and self._touches(call):
            raise Unmodelled(f"{call.name}({call.text[:200]}) touches {self.root}, and no crash model knows it")

    def _touches(self, call: Call) -> bool:
        return self._hex in call.text

    # What calls name

    def held(self, call: Call, printed: str) -> OpenFile | None:
        """The file that a descriptor stands for; None for one somewhere else."""
        number, path = descriptor_of(printed), path_of(printed)
        held = None if number is None else self._descriptors.get(call.pid, number)
        if (held is not None) != (path is not None and self._inside(path)):
            raise Unmodelled(f"{call.name}: descriptor {number} came in a way that was not followed, to {path}")
        return held

    def place(self, call: Call, printed: str, folder: str | None = None) -> _Place | None:
        """The name that a path, relative to the descriptor ``folder``, stands for; None for one somewhere else."""
        path = text_of(printed).decode("utf-8", "surrogateescape")
        base = path_of(folder) if folder is not None else None
        whole = Path(base or self._working.get(call.pid, str(self.cwd)), path)
        parts = _normal(whole)
        if not self._inside(parts):
            return None
        number = ROOT
        segments = Path(parts).relative_to(self.root).parts
        for segment in segments[:-1]:
            found = self.tree.folders.get(number, {}).get(segment)
            if found is None or found not in self.tree.folders:
                raise Unmodelled(f"{call.name}: {parts} lies in a folder that the replay has not")
            number = found
        if not segments:
            return _Place(-1, "", ROOT)
        return _Place(number, segments[-1], self.tree.folders[number].get(segments[-1]))

    def descriptor(self, call: Call, number: int) -> OpenFile | None:
        """The file that a number alone stands for."""
        return self._descriptors.get(call.pid, number)

    def _inside(self, path: str) -> bool:
        return path == str(self.root) or path.startswith(f"{self.root}/")

    # What calls do

    def do(self, call: Call, action: Action) -> None:
        """Note an operation, and replay it."""
        self.operations.append(Operation(action, call.begun, call.ended))
        self.tree.apply(action)

    def size(self, inode: int) -> int:
        """Bytes of a file by now."""
        content = self.tree.files.get(inode)
        return len(content.data) if content is not None else 0

    def fresh(self) -> int:
        """A number for what comes to be."""
        self._next += 1
        return self._next - 1

    def open(self, call: Call, printed: str, flags: str, mode: str, folder: str | None) -> None:
        """``open`` in all its spellings, and marks."""
        if call.error:
            path = text_of(printed).decode("utf-8", "surrogateescape")
            if path.startswith(MARK):
                self.marks.append(Mark(path.removeprefix(MARK), call.ended))
            return
        words = set(flags.split("|"))
        place = self.place(call, printed, folder)
        held = None
        if place is not None:
            inode = self._opened(call, place, words, mode)
            writable = bool(words & {"O_WRONLY", "O_RDWR"})
            held = OpenFile(inode, writable, "O_APPEND" in words)
            if "O_TRUNC" in words and writable and self.size(inode):
                self.do(call, Resize(inode, 0))
                held.emptied = True
        self._descriptors.open(call.pid, call.result, held, until_exec="O_CLOEXEC" in words)

    def _opened(self, call: Call, place: _Place, words: set[str], mode: str) -> int:
        if any(word.endswith("TMPFILE") for word in words):
            inode = self.fresh()
            self.tree.apply(Resize(inode, 0))
            self.do(call, Mode(inode, _mode(mode)))
            return inode
        if place.inode is not None:
            return place.inode
        if "O_CREAT" not in words:
            raise Unmodelled(f"{call.name}: {place.name} was opened, and the replay has no such file")
        inode = self.fresh()
        self.do(call, Names((Change(place.folder, place.name, inode),)))
        self.tree.modes[inode] = _mode(mode)
        return inode

    def write(self, call: Call, held: OpenFile, data: bytes, offset: int | None) -> None:
        """Bytes at ``offset``, or where the file stands; as many as the call has taken."""
        data = data[: call.result]
        if held.appends:
            offset = self.size(held.inode)
        start = held.position if offset is None else offset
        if offset is None or held.appends:
            held.position = start + len(data)
        if data:
            self.do(call, Write(held.inode, start, data))

    def resize(self, call: Call, held: OpenFile, size: int) -> None:
        """Cut a file, or fill it up with zeros."""
        if size != self.size(held.inode):
            self.do(call, Resize(held.inode, size))
        held.emptied = held.emptied or size == 0

    def close(self, call: Call, number: int) -> None:
        """Close a descriptor."""
        last = self._descriptors.close(call.pid, number)
        if last is not None and last.emptied:
            self.do(call, Close(last.inode))

    def duplicate(self, call: Call, old: str, *, until_exec: bool = False) -> None:
        """``dup``, ``dup2``, ``dup3`` and ``F_DUPFD``."""
        number = descriptor_of(old)
        assert number is not None
        self._descriptors.duplicate(call.pid, number, call.result, until_exec=until_exec)

    def rename(self, call: Call, source: _Place | None, target: _Place | None) -> None:
        """Move a name within the watched folder."""
        if source is None and target is None:
            return
        if source is None or target is None or source.inode is None:
            raise Unmodelled(f"{call.name}({call.text[:300]}): a file came in, or went out of, {self.root}")
        if source.inode == target.inode:
            return
        changes = (
            Change(target.folder, target.name, source.inode),
            Change(source.folder, source.name, None, source.inode),
        )
        self.do(call, Names(changes, replaced=target.inode is not None and target.inode not in self.tree.folders))

    def work_in(self, call: Call, path: str) -> None:
        """``chdir``: relative paths are told from there."""
        self._working[call.pid] = path

    def execute(self, call: Call) -> None:
        """``execve``: other descriptors are left."""
        self._descriptors.execute(call.pid)


def _mode(printed: str) -> int:
    return int(printed, 8) & ~UMASK if re.fullmatch(r"0[0-7]*", printed) else 0


def _normal(path: Path) -> str:
    found: list[str] = []
    for part in path.parts[1:]:
        if part == "..":
            found = found[:-1]
        elif part != ".":
            found.append(part)
    return "/" + "/".join(found)


def fcntl_is_harmless(command: str) -> bool:
    """Whether an ``fcntl`` changes neither bytes nor names."""
    return command.startswith(_FCNTL_HARMLESS)


Handler = Callable[[Recorder, Call, list[str]], None]
