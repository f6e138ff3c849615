"""What is written to one file, cut into what a disk takes or loses in one piece."""

import random
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from .disk import Content
from .operations import PAGE, Operation, Resize, Write

_SHARED = 1 << 20
"""Versions of larger files are not held, unless nothing or everything has arrived: there are too many."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """At most a page of a write, a change of a file's length, or (with ``grows``) the length that a write brings.

    Each is itself, whatever it holds.
    """

    inode: int
    order: int
    """Of the operation in the trace."""
    offset: int
    data: bytes | None
    """None: the file gets ``offset`` bytes."""
    grows: bool = False
    """The file is never cut."""

    @property
    def end(self) -> int:
        """Past its last byte."""
        return self.offset + len(self.data or b"")


def pieces(order: int, operation: Operation) -> Iterator[Piece]:
    """The pieces of a write or a change of length; edges are those of the file's pages."""
    action = operation.action
    if isinstance(action, Resize):
        yield Piece(action.inode, order, action.size, None, action.at_least)
    elif isinstance(action, Write):
        start = action.offset
        while start < action.end:
            stop = min((start // PAGE + 1) * PAGE, action.end)
            yield Piece(action.inode, order, start, action.data[start - action.offset : stop - action.offset])
            start = stop


class Versions:
    """What a file may hold, each version built once: most of what a crash may leave differs in other files."""

    def __init__(self) -> None:
        self._built: dict[tuple[int, frozenset[Piece], bool], Content] = {}

    def of(
        self, inode: int, old: Content, pending: list[Piece], arrived: AbstractSet[Piece], noise: "Noise | None" = None
    ) -> Content:
        """The file ``inode`` with those of the pending pieces that have arrived; ``old`` and the pending ones stay."""
        chosen = frozenset(piece for piece in pending if piece in arrived)
        key = inode, chosen, noise is not None
        found = self._built.get(key)
        if found is None:
            found = built(old, [(piece, piece in chosen) for piece in pending], noise)
            if len(found.data) <= _SHARED or len(chosen) in (0, len(pending)):
                self._built[key] = found
        return found

    def forget(self) -> None:
        """Another piece is pending, or an old one durable."""
        self._built.clear()


def built(old: Content, chosen: list[tuple[Piece, bool]], noise: "Noise | None" = None) -> Content:
    """A file of which some pieces have arrived, in their order.

    With ``noise`` a piece that has not arrived holds that, where it lies within the file.
    """
    if not any(arrived for _, arrived in chosen) and noise is None:
        return old
    data = bytearray(old.data)
    for piece, arrived in chosen:
        if piece.data is None:
            if arrived:
                _resize(data, piece)
        elif arrived or noise is not None:
            if len(data) < piece.offset:
                data.extend(bytes(piece.offset - len(data)))
            data[piece.offset : piece.end] = piece.data if arrived or noise is None else noise.like(piece.data)
    return Content(data)


def _resize(data: bytearray, piece: Piece) -> None:
    if len(data) < piece.offset:
        data.extend(bytes(piece.offset - len(data)))
    elif not piece.grows:
        del data[piece.offset :]


class Noise:
    """What a sector holds that was never written, or half."""

    def __init__(self, seed: int) -> None:
        self._bytes = random.Random(seed).randbytes(2 * PAGE)

    def like(self, data: bytes) -> bytes:
        """So many bytes, none of them the right one by chance alone."""
        return self._bytes[len(data) % PAGE :][: len(data)]
