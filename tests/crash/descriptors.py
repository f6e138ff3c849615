"""The open files of traced processes: which descriptor of which process is which file."""

from dataclasses import dataclass, field

from .strace import Born, Call

SHARED = "CLONE_FILES"


@dataclass
class OpenFile:
    """An open file of the watched folder; ``dup`` and ``fork`` share it, its position too."""

    inode: int
    writable: bool
    appends: bool = False
    position: int = 0
    emptied: bool = False
    """Whether it was cut to nothing while it was open."""
    holders: int = 1


@dataclass
class _Table:
    """The descriptors of one process; of files of the watched folder only."""

    files: dict[int, OpenFile] = field(default_factory=dict)
    on_exec: set[int] = field(default_factory=set)
    """Those that are closed by ``execve``."""

    def copy(self) -> "_Table":
        for held in self.files.values():
            held.holders += 1
        return _Table(dict(self.files), set(self.on_exec))


class Descriptors:
    """All tables. Threads share the table of their process; forked processes get a copy."""

    def __init__(self) -> None:
        self._tables: dict[int, _Table] = {}
        self._births: list[Born] = []

    def table(self, pid: int) -> _Table:
        """The table of a process or thread, which may have acted before the call that made it returned."""
        if pid not in self._tables:
            self._tables[pid] = self._inherited() if self._tables else _Table()
        return self._tables[pid]

    def _inherited(self) -> _Table:
        parents = {id(self.table(birth.pid)): birth for birth in self._births}
        assert len(parents) == 1, "a process came to be, and of two others either may be its parent"
        (birth,) = parents.values()
        parent = self.table(birth.pid)
        return parent if SHARED in birth.text else parent.copy()

    def begin_birth(self, birth: Born) -> None:
        """A process or thread is being made."""
        self._births.append(birth)

    def end_birth(self, call: Call) -> None:
        """It was made, or not."""
        self._births = [one for one in self._births if one.pid != call.pid]
        if call.result > 0 and call.result not in self._tables:
            parent = self.table(call.pid)
            self._tables[call.result] = parent if SHARED in call.text else parent.copy()

    def open(self, pid: int, number: int, held: OpenFile | None, *, until_exec: bool) -> None:
        """A descriptor stands for ``held`` from now on; None for a file somewhere else."""
        table = self.table(pid)
        self.close(pid, number)
        if held is not None:
            table.files[number] = held
            if until_exec:
                table.on_exec.add(number)

    def get(self, pid: int, number: int) -> OpenFile | None:
        """What a descriptor stands for; None for a file somewhere else."""
        return self.table(pid).files.get(number)

    def duplicate(self, pid: int, old: int, new: int, *, until_exec: bool = False) -> None:
        """A second descriptor for one open file."""
        held = self.get(pid, old)
        if old != new:
            if held is not None:
                held.holders += 1
            self.open(pid, new, held, until_exec=until_exec)

    def close(self, pid: int, number: int) -> OpenFile | None:
        """Close a descriptor; return the file when it was the last one for it."""
        table = self.table(pid)
        held = table.files.pop(number, None)
        table.on_exec.discard(number)
        if held is None:
            return None
        held.holders -= 1
        return held if held.holders == 0 else None

    def execute(self, pid: int) -> None:
        """Another program goes on in the process."""
        for number in list(self.table(pid).on_exec):
            self.close(pid, number)
