"""A folder of a disk in memory: names, files, and what an operation makes of them."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from blake3 import blake3

from .operations import ROOT, Action, Mode, Names, Resize, Write


class Content:
    """The bytes of a file; never changed, so that states share them."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = data

    @cached_property
    def digest(self) -> str:
        """Names the bytes."""
        return blake3(self.data).hexdigest()


EMPTY = Content(b"")
Folders = dict[int, dict[str, int]]
Files = dict[int, Content]


@dataclass(frozen=True)
class State:
    """What lies below a folder: relative paths of folders, parents first, and of files with their bytes."""

    folders: tuple[str, ...]
    files: tuple[tuple[str, Content], ...]

    @cached_property
    def key(self) -> str:
        """Equal for states that hold the same bytes under the same names."""
        parts = [f"{path}/" for path in self.folders]
        parts += [f"{path}\0{content.digest}" for path, content in self.files]
        return blake3("\n".join(sorted(parts)).encode("utf-8", "surrogateescape")).hexdigest()


@dataclass
class Tree:
    """Names by folder and bytes by file. Files without a name stay: a program may still write to them."""

    folders: Folders = field(default_factory=lambda: {ROOT: {}})
    files: Files = field(default_factory=dict)
    modes: dict[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> "Tree":
        """What lies below ``root``. Two names of one file are one file."""
        tree, numbers = cls(), {}
        tree._read(root, ROOT, numbers)
        return tree

    def _read(self, folder: Path, number: int, numbers: dict[int, int]) -> None:
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            found = numbers.setdefault(entry.inode(), len(numbers) + 1)
            self.folders[number][entry.name] = found
            status = entry.stat(follow_symlinks=False)
            self.modes[found] = stat.S_IMODE(status.st_mode)
            if entry.is_dir(follow_symlinks=False):
                self.folders[found] = {}
                self._read(Path(entry.path), found, numbers)
            elif stat.S_ISREG(status.st_mode):
                self.files[found] = Content(Path(entry.path).read_bytes())
            else:
                raise AssertionError(f"{entry.path} is neither a file nor a folder: no model knows such a thing")

    def copy(self) -> "Tree":
        """One that may be changed without changing this one."""
        return Tree({number: dict(names) for number, names in self.folders.items()}, dict(self.files), dict(self.modes))

    def with_folders(self, numbers: Iterable[int]) -> "Tree":
        """A copy that knows which numbers will be folders, though they have no name yet."""
        tree = self.copy()
        for number in numbers:
            tree.folders.setdefault(number, {})
        return tree

    def apply(self, action: Action) -> None:
        """Do what an operation does; a sync changes nothing that can be seen."""
        match action:
            case Names():
                change_names(self.folders, action)
                for change in action.changes:
                    if change.inode is not None and change.inode not in self.folders:
                        self.files.setdefault(change.inode, EMPTY)
            case Write(inode, offset, data):
                self.files[inode] = Content(written(self.files.get(inode, EMPTY).data, offset, data))
            case Resize(inode, size, at_least):
                self.files[inode] = Content(resized(self.files.get(inode, EMPTY).data, size, at_least=at_least))
            case Mode(inode, mode):
                self.modes[inode] = mode

    def state(self) -> State:
        """What can be seen of it."""
        return visible(self.folders, self.files)


def change_names(folders: Folders, names: Names) -> None:
    """Change names, those that still stand for what they stood for; folders that are missing come to be."""
    for change in names.changes:
        entries = folders.setdefault(change.folder, {})
        if change.inode is not None:
            entries[change.name] = change.inode
        elif entries.get(change.name) == change.was:
            entries.pop(change.name, None)


def visible(folders: Folders, files: Files) -> State:
    """What can be reached from the root."""
    found_folders: list[str] = []
    found_files: list[tuple[str, Content]] = []
    for path, number in _walk(folders, ROOT, ""):
        if number in folders:
            found_folders.append(path)
        else:
            found_files.append((path, files.get(number, EMPTY)))
    return State(tuple(found_folders), tuple(found_files))


def _walk(folders: Folders, number: int, prefix: str) -> Iterator[tuple[str, int]]:
    for name, inode in folders[number].items():
        path = f"{prefix}{name}"
        yield path, inode
        if inode in folders:
            yield from _walk(folders, inode, f"{path}/")


def written(old: bytes | bytearray, offset: int, data: bytes) -> bytes:
    """``old`` with ``data`` at ``offset``; a hole before it reads as zeros."""
    view = memoryview(old)
    return b"".join((view[:offset], bytes(max(offset - len(old), 0)), data, view[offset + len(data) :]))


def resized(old: bytes | bytearray, size: int, *, at_least: bool = False) -> bytes:
    """``old`` cut to ``size`` or filled up with zeros; with ``at_least`` never cut."""
    size = max(size, len(old)) if at_least else size
    return b"".join((memoryview(old)[:size], bytes(max(size - len(old), 0))))


def differences(tree: Tree, root: Path) -> list[str]:
    """Where a replayed tree is not what lies below ``root``: names, bytes and permissions."""
    real = Tree.read(root)
    here, there = _described(tree), _described(real)
    return [
        f"{path}: replayed {here.get(path, 'nothing')}, on disk {there.get(path, 'nothing')}"
        for path in sorted(here.keys() | there.keys())
        if here.get(path) != there.get(path)
    ]


def _described(tree: Tree) -> dict[str, str]:
    found = {}
    for path, number in _walk(tree.folders, ROOT, ""):
        mode = f"{tree.modes.get(number, 0):o}"
        what = "a folder" if number in tree.folders else _content_described(tree.files.get(number, EMPTY))
        found[path] = f"{what} {mode}"
    return found


def _content_described(content: Content) -> str:
    return f"{len(content.data)} bytes {content.digest[:12]}"
