"""What a program did to one folder of a disk, as values: the words in which a trace and the crash models speak.

Files and folders are numbered as they come to be; 0 is the folder that is watched. Numbers, not paths, because a file
is written under one name and kept under another.
"""

from dataclasses import dataclass

PAGE = 4096
"""What a kernel caches, and a disk writes, in one piece."""

ROOT = 0
"""The number of the folder that is watched."""


@dataclass(frozen=True, slots=True)
class Change:
    """One name of a folder gets a file, or loses it."""

    folder: int
    name: str
    inode: int | None
    """What the name stands for from now on; None when it is gone."""
    was: int | None = None
    """With ``inode=None``: what the name stood for. One that stands for something else is left alone."""


@dataclass(frozen=True, slots=True)
class Names:
    """One atomic call that changes names: a new file or folder, ``link``, ``unlink``, ``rename``, ``rmdir``."""

    changes: tuple[Change, ...]
    replaced: bool = False
    """A ``rename`` over a name that stood for another file: ext4 flushes the data of the new one."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset, through the page cache or past it: neither is durable before a sync."""

    inode: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """Past the last byte."""
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Resize:
    """``ftruncate`` and ``O_TRUNC``; with ``at_least`` ``fallocate``, which never shortens."""

    inode: int
    size: int
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Mode:
    """The permissions of a file or folder. Replayed, but no crash model loses them: nothing depends on them."""

    inode: int
    mode: int


@dataclass(frozen=True, slots=True)
class Sync:
    """``fsync`` of a file or folder; of everything (``sync``, ``syncfs``) where ``inode`` is None."""

    inode: int | None
    data_only: bool = False
    """``fdatasync``: no more of the metadata than is needed to find the data."""


@dataclass(frozen=True, slots=True)
class Close:
    """The close of a file that was emptied while it was open: ext4 flushes its data then."""

    inode: int


Action = Names | Write | Resize | Mode | Sync | Close


@dataclass(frozen=True, slots=True)
class Operation:
    """An action and its moments. Of calls that overlap in several threads the order is unknown to a crash."""

    action: Action
    begun: int
    ended: int
    """Moments count the lines of the trace; a call is in flight from ``begun`` until ``ended``."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that the traced program said."""

    text: str
    moment: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What a program did, in the order in which its calls returned."""

    operations: tuple[Operation, ...]
    marks: tuple[Mark, ...]
    folders: frozenset[int]
    """The numbers that are folders, not files."""

    def moments(self) -> list[int]:
        """The moments after which a crash may come: each begin and end of a call, and each mark."""
        found = {one.begun for one in self.operations} | {one.ended for one in self.operations}
        first = next((mark.moment for mark in self.marks if mark.text == "begin"), 0)
        return sorted(moment for moment in found | {mark.moment for mark in self.marks} if moment >= first)

    def said_by(self, moment: int) -> int:
        """How many marks there are up to a moment."""
        return sum(mark.moment <= moment for mark in self.marks)
