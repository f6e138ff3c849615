"""What a disk holds after a power cut: all that was synced, and of the rest whatever the model lets through."""

import os
import random
from collections.abc import Callable
from enum import Enum

from .disk import BLOCK, Disk, File, Folder, Names, Node, Resize, Write


class Cut(Enum):
    """How unkind a power cut is."""

    NOTHING = "nothing that was not synced is there"
    ORDERED = "what was not synced is there up to some moment, and nothing after it"
    NAMES = "every name is there, and no bytes that were not synced"
    BYTES = "all bytes are there, and no name that was not synced"
    SOME = "each page and each name that was not synced is there or not, and holes hold zeros or garbage"
    ALL = "everything is there: a moment later it would have been synced"


Change = Write | Resize | Names


def after_cut(disk: Disk, cut: Cut, chance: random.Random) -> Disk:
    """Return the disk as it is found when the power is back; ``disk`` itself is left as it was."""
    new = Disk(disk.clock, disk.abilities, root=Folder(0, 0.0))
    new.stamp = disk.stamp
    new._number = disk._number  # numbers of files and descriptors are never used twice
    new._descriptor = disk._descriptor
    rebuilt = _Rebuilt(_chooser(cut, disk.stamp, chance), chance, torn=cut is Cut.SOME)
    new.root = rebuilt.folder(disk.root)
    return new


def _chooser(cut: Cut, last: int, chance: random.Random) -> Callable[[Change], bool]:
    if cut is Cut.ORDERED:
        moment = last - int(chance.expovariate(0.2))
        return lambda change: change.stamp <= moment
    if cut is Cut.SOME:
        share = chance.choice((0.1, 0.5, 0.9))
        return lambda change: chance.random() < share
    kinds = {Cut.NOTHING: (), Cut.NAMES: (Names,), Cut.BYTES: (Write, Resize), Cut.ALL: (Write, Resize, Names)}[cut]
    return lambda change: isinstance(change, kinds)


class _Rebuilt:
    """Copies a tree of files; one with two names stays one."""

    def __init__(self, survives: Callable[[Change], bool], chance: random.Random, *, torn: bool) -> None:
        self._survives = survives
        self._chance = chance
        self._torn = torn
        self._done: dict[int, Node] = {}

    def folder(self, old: Folder) -> Folder:
        names = dict(old.durable)
        for change in old.pending:
            if self._survives(change):
                for name, node in change.changed.items():
                    if node is None:
                        names.pop(name, None)
                    else:
                        names[name] = node
        found = {name: self._node(node) for name, node in names.items()}
        return Folder(old.number, old.time, found, dict(found))

    def _node(self, old: Node) -> Node:
        if id(old) not in self._done:
            self._done[id(old)] = self.folder(old) if isinstance(old, Folder) else self._file(old)
        return self._done[id(old)]

    def _file(self, old: File) -> File:
        data = bytearray(old.durable)
        for change in old.pending if not old.spoilt else ():
            if isinstance(change, Resize):
                if self._survives(change):
                    del data[change.size :]
                    self._fill(data, change.size)
            elif not self._torn:
                if self._survives(change):
                    self._put(data, change.offset, change.data)
            else:
                self._put_pages(data, change)
        return File(old.number, old.time, data, bytes(data), mode=old.mode)

    def _put_pages(self, data: bytearray, change: Write) -> None:
        """Each page of a write comes to the disk or not."""
        start, stop = change.offset, change.offset + len(change.data)
        while start < stop:
            past = min(stop, (start // BLOCK + 1) * BLOCK)
            if self._survives(change):
                self._put(data, start, change.data[start - change.offset : past - change.offset])
            start = past

    def _put(self, data: bytearray, offset: int, part: bytes) -> None:
        self._fill(data, offset)
        data[offset : offset + len(part)] = part

    def _fill(self, data: bytearray, size: int) -> None:
        """Room that nobody has written to holds zeros, or what lay there before."""
        missing = size - len(data)
        if missing > 0:
            garbage = self._torn and self._chance.random() < 0.5
            data.extend(self._chance.randbytes(missing) if garbage else bytes(missing))


def real_folder(disk: Disk, target: str, *, of: str = "/twin/keep") -> None:
    """Write what the twin holds below ``of`` into a real folder, to be looked at with real tools."""
    node = disk._node(of)
    assert isinstance(node, Folder)
    os.makedirs(target, exist_ok=True)
    for name, child in node.names.items():
        path = f"{target}/{name}"
        if isinstance(child, Folder):
            real_folder(disk, path, of=f"{of}/{name}")
        else:
            with open(path, "wb") as file:
                file.write(child.data)
