"""A power cut on ext4 as it is mounted by default: ``data=ordered``, delayed allocation, ``auto_da_alloc``.

Changes of names and lengths become durable in their order; any ``fsync`` commits all that came before it. Data of
files that were not synced are written at any time or never, and never is a file longer than what was written.
A ``rename`` over a file, and the close of a file that was emptied, flush the data of that file before they commit.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from .choices import Effort, sample
from .disk import EMPTY, Files, State, Tree, change_names, visible
from .operations import Close, Names, Operation, Resize, Sync, Trace, Write
from .pieces import Piece, Versions, pieces


@dataclass
class _Journal:
    """The disk as the last commit left it, and what has happened since."""

    base: Tree
    changes: list[tuple[int, Operation]] = field(default_factory=list)
    """Changes of names and lengths, and flushes, in their order."""
    data: dict[int, list[tuple[int, int, Piece]]] = field(default_factory=dict)
    """By file: pieces, each with the number of its operation and the moment at which that returned."""
    lengths: dict[int, set[Piece]] = field(default_factory=dict)
    """By the number of an operation: the length that it brings."""
    versions: Versions = field(default_factory=Versions)

    def begin(self, order: int, operation: Operation) -> None:
        """A call is in flight: its effect may arrive."""
        action = operation.action
        self.versions.forget()
        if isinstance(action, Write):
            pending = self.data.setdefault(action.inode, [])
            pending += [(order, operation.ended, piece) for piece in pieces(order, operation)]
        elif isinstance(action, (Names, Resize, Close)):
            self.changes.append((order, operation))
            self.lengths[order] = set(pieces(order, operation))

    def end(self, operation: Operation) -> None:
        """A call has returned; a sync commits what returned before it was called."""
        action = operation.action
        if not isinstance(action, Sync):
            return
        self.versions.forget()
        count = self._committed_by(action, operation.begun)
        synced = list(self.data) if action.inode is None else [action.inode]
        arrived = {
            piece
            for inode in synced
            for _, ended, piece in self.data.get(inode, [])
            if ended < operation.begun and self._is_visible(inode, piece.order, count)
        }
        arrived |= self.flushed(count)
        self.base = self.tree(count, arrived)
        self.changes = self.changes[count:]
        for inode in list(self.data):
            self.data[inode] = [one for one in self.data[inode] if one[2] not in arrived]
            if not self.data[inode]:
                del self.data[inode]

    def _committed_by(self, sync: Sync, begun: int) -> int:
        """How many changes a sync commits: all before it; ``fdatasync`` those up to the last length of its file."""
        count = 0
        for index, (_, operation) in enumerate(self.changes):
            if operation.ended >= begun:
                break
            if not sync.data_only or self._is_of(operation, sync.inode):
                count = index + 1
        return count

    @staticmethod
    def _is_of(operation: Operation, inode: int | None) -> bool:
        action = operation.action
        if isinstance(action, Names):
            return any(change.inode == inode for change in action.changes)
        return isinstance(action, Resize) and action.inode == inode

    def flushed(self, count: int) -> set[Piece]:
        """The data that are written before the first ``count`` changes are committed."""
        found: set[Piece] = set()
        for order, operation in self.changes[:count]:
            action, inode = operation.action, None
            if isinstance(action, Close):
                inode = action.inode
            elif isinstance(action, Names) and action.replaced:
                inode = action.changes[0].inode
            if inode is not None:
                found |= {one[2] for one in self.data.get(inode, []) if one[0] < order}
        return found

    def _is_visible(self, inode: int, order: int, count: int) -> bool:
        """Whether data would be seen: not behind a change of length that is not committed."""
        later = self.changes[count:]
        return not any(
            isinstance(operation.action, Resize) and operation.action.inode == inode and number < order
            for number, operation in later
        )

    def tree(self, count: int, arrived: set[Piece]) -> Tree:
        """The disk when the first ``count`` changes and these pieces have arrived."""
        tree = self.base.copy()
        lengths: set[Piece] = set()
        for order, operation in self.changes[:count]:
            if isinstance(operation.action, Names):
                change_names(tree.folders, operation.action)
            elif isinstance(operation.action, Resize):
                lengths |= self.lengths[order]
        for inode, some in _by_file(lengths | arrived).items():
            some.sort(key=lambda piece: (piece.order, piece.offset))
            tree.files[inode] = self.versions.of(inode, tree.files.get(inode, EMPTY), some, set(some))
        return tree

    def free(self, count: int) -> dict[int, list[Piece]]:
        """The data that may or may not have arrived with the first ``count`` changes, by file."""
        sure = self.flushed(count)
        found = {
            inode: [piece for order, _, piece in pending if piece not in sure and self._is_visible(inode, order, count)]
            for inode, pending in self.data.items()
        }
        return {inode: some for inode, some in found.items() if some}


def _by_file(arrived: set[Piece]) -> dict[int, list[Piece]]:
    found: dict[int, list[Piece]] = {}
    for piece in arrived:
        found.setdefault(piece.inode, []).append(piece)
    return found


def states(trace: Trace, before: Tree, effort: Effort, seed: int) -> Iterator[tuple[int, State]]:
    """Yield what the folder may hold after a power cut at each moment: ``(moment, state)``."""
    dice = random.Random(seed)
    base = before.with_folders(trace.folders)
    journal = _Journal(base)
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
                journal.end(trace.operations[order])
            else:
                journal.begin(order, trace.operations[order])
        for state in _crashes(journal, effort, dice):
            yield moment, state


def _crashes(journal: _Journal, effort: Effort, dice: random.Random) -> Iterator[State]:
    counts = range(len(journal.changes) + 1)
    for count in {0, len(journal.changes), *sample(counts, effort.single, dice)}:
        sure, free = journal.flushed(count), journal.free(count)
        for arrived in _some(journal.tree(count, sure).files, free, effort, dice):
            tree = journal.tree(count, sure | arrived)
            yield visible(tree.folders, tree.files)


def _some(files: Files, free: dict[int, list[Piece]], effort: Effort, dice: random.Random) -> Iterator[set[Piece]]:
    """Which data have arrived: none, all, all of all but one file, of one alone, and of each up to some place."""
    everything = {piece for some in free.values() for piece in some}
    yield set()
    if not everything:
        return
    yield everything
    for some in free.values() if len(free) > 1 else ():
        yield everything - set(some)
        yield set(some)
    for _ in range(effort.random):
        yield {piece for inode, some in free.items() for piece in _up_to(files.get(inode, EMPTY).data, some, dice)}


def _up_to(old: bytes, some: list[Piece], dice: random.Random) -> Iterator[Piece]:
    """Pieces in the file's old length in any choice; those behind it up to a place, since a file grows so."""
    end = dice.choice([0, *(piece.end for piece in some)])
    for piece in some:
        if piece.end <= len(old):
            if dice.random() < 0.5:
                yield piece
        elif piece.end <= end:
            yield piece
