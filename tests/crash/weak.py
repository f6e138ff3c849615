"""A power cut on a disk and a file system that promise nothing but what POSIX does.

Durable are the bytes of files that were synced, and the names of folders that were. Anything else may be lost, or have
arrived, each call on names by itself and data in pieces of a page, in any order. A piece that was lost reads as zeros,
or as garbage. A ``rename`` is atomic. A folder that was made is there when the one above it was synced.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from .choices import Effort, subsets
from .disk import EMPTY, Files, Folders, State, Tree, change_names, visible
from .operations import Names, Operation, Resize, Sync, Trace, Write
from .pieces import Noise, Piece, Versions, built, pieces


@dataclass
class _Renamed:
    """A change of names that is not durable."""

    names: Names
    ended: int
    waits_for: set[int]
    """The folders that must be synced first."""


@dataclass
class _Disk:
    """What is durable, and what may be."""

    folders: Folders
    files: Files
    names: list[_Renamed] = field(default_factory=list)
    pieces: dict[int, list[tuple[int, Piece]]] = field(default_factory=dict)
    """By file: each piece with the moment at which its call returned."""
    versions: Versions = field(default_factory=Versions)

    def begin(self, order: int, operation: Operation) -> None:
        """A call is in flight: its effect may arrive."""
        action = operation.action
        if isinstance(action, Names):
            self.names.append(_Renamed(action, operation.ended, {change.folder for change in action.changes}))
        elif isinstance(action, (Write, Resize)):
            self.versions.forget()
            pending = self.pieces.setdefault(action.inode, [])
            if isinstance(action, Write):
                grows = Piece(action.inode, order, action.end, None, grows=True)
                pending.append((operation.ended, grows))
            pending += [(operation.ended, piece) for piece in pieces(order, operation)]

    def end(self, operation: Operation) -> None:
        """A call has returned; what returned before a sync was called is durable now."""
        action = operation.action
        if not isinstance(action, Sync):
            return
        self.versions.forget()
        for inode in [action.inode] if action.inode is not None else list(self.pieces):
            self._sync_file(inode, operation.begun)
        for one in self.names:
            if one.ended < operation.begun:
                one.waits_for -= one.waits_for if action.inode is None else {action.inode}
        # In their order: what stands before one that is not durable waits, and so does nothing else.
        while self.names and not self.names[0].waits_for:
            change_names(self.folders, self.names.pop(0).names)

    def _sync_file(self, inode: int, begun: int) -> None:
        pending = self.pieces.pop(inode, [])
        durable = [(piece, True) for ended, piece in pending if ended < begun]
        if durable:
            self.files[inode] = built(self.files.get(inode, EMPTY), durable)
        left = [(ended, piece) for ended, piece in pending if ended >= begun]
        if left:
            self.pieces[inode] = left

    def state(self, names: set[int], arrived: set[Piece], noise: Noise | None) -> State:
        """What lies there when these calls on names, by number, and these pieces have arrived."""
        folders = {number: dict(entries) for number, entries in self.folders.items()}
        for index, one in enumerate(self.names):
            if index in names or not one.waits_for:
                change_names(folders, one.names)
        files = dict(self.files)
        for inode, pending in self.pieces.items():
            some = [piece for _, piece in pending]
            files[inode] = self.versions.of(inode, files.get(inode, EMPTY), some, arrived, noise)
        return visible(folders, files)

    def reachable(self) -> set[int]:
        """The files that have a name, or may have one."""
        named = {inode for entries in self.folders.values() for inode in entries.values()}
        return named | {change.inode for one in self.names for change in one.names.changes if change.inode is not None}


def states(trace: Trace, before: Tree, effort: Effort, seed: int) -> Iterator[tuple[int, State]]:
    """Yield what the folder may hold after a power cut at each moment: ``(moment, state)``."""
    dice, noise = random.Random(seed), Noise(seed)
    durable = before.with_folders(trace.folders)
    disk = _Disk(durable.folders, durable.files)
    events = sorted(
        [(one.begun, 0, order) for order, one in enumerate(trace.operations)]
        + [(one.ended, 1, order) for order, one in enumerate(trace.operations)]
    )
    done = 0
    for moment in trace.moments():
        while done < len(events) and events[done][0] <= moment:
            _, ends, order = events[done]
            done += 1
            if ends:
                disk.end(trace.operations[order])
            else:
                disk.begin(order, trace.operations[order])
        for state in _crashes(disk, effort, dice, noise):
            yield moment, state


def _crashes(disk: _Disk, effort: Effort, dice: random.Random, noise: Noise) -> Iterator[State]:
    names = [index for index, one in enumerate(disk.names) if one.waits_for]
    reachable = disk.reachable()
    data = [piece for inode, pending in disk.pieces.items() if inode in reachable for _, piece in pending]
    for chosen in subsets(len(names), len(data), effort, dice):
        arrived_names = {names[index] for index in chosen if index < len(names)}
        arrived = {data[index - len(names)] for index in chosen if index >= len(names)}
        yield disk.state(arrived_names, arrived, None)
        if len(arrived) < len(data):
            yield disk.state(arrived_names, arrived, noise)
    if data and names:  # the names are there, and data are not: what a program meets that forgot to sync
        everything = set(names)
        for _ in range(effort.random):
            arrived = {piece for piece in data if dice.random() < 0.5}
            yield disk.state(everything, arrived, None)
            yield disk.state(everything, arrived, noise)
