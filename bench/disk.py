"""What the disk can do: the raw ways to make bytes durable and to read them, with nothing on top."""

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.states import Arrays

CHUNK = 4 << 20
ALIGNMENT = 4096
_SYNC_FILE_RANGE_WRITE = 2


def buffers(arrays: Arrays) -> list[memoryview]:
    """The bytes of the arrays, without a copy."""
    return [array.data.cast("B") for array in arrays.values()]


def write_plain(path: Path, parts: Sequence[memoryview]) -> None:
    """Write, then fsync the file and its folder."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for part in parts:
            for start in range(0, len(part), CHUNK):
                os.write(descriptor, part[start : start + CHUNK])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def write_early(path: Path, parts: Sequence[memoryview]) -> None:
    """Preallocate, and have the kernel write back each chunk while the next is copied."""
    total = sum(len(part) for part in parts)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, total)
        offset = 0
        for part in parts:
            for start in range(0, len(part), CHUNK):
                piece = part[start : start + CHUNK]
                os.write(descriptor, piece)
                _begin_write_back(descriptor, offset, len(piece))
                offset += len(piece)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def _begin_write_back(descriptor: int, offset: int, length: int) -> None:
    start, count = ctypes.c_int64(offset), ctypes.c_int64(length)
    # a hint: where the call is missing or refused, the fsync does all of the work
    ctypes.CDLL(None).sync_file_range(descriptor, start, count, _SYNC_FILE_RANGE_WRITE)


def write_direct(path: Path, parts: Sequence[memoryview], threads: int) -> None:
    """Write past the page cache, in aligned chunks, from ``threads`` threads; then fsync."""
    jobs = _aligned_jobs(parts)
    total = sum(len(part) for part in parts)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, -(-total // ALIGNMENT) * ALIGNMENT)
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(_write_jobs, descriptor, jobs[index::threads]) for index in range(threads)]:
                done.result()
        os.ftruncate(descriptor, total)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


Job = tuple[int, list[memoryview]]


def _aligned_jobs(parts: Sequence[memoryview]) -> list[Job]:
    """The bytes of all parts as chunks at offsets of 4 MiB: (offset, what lies there)."""
    jobs: list[Job] = []
    room, offset = 0, 0
    for part in parts:
        start = 0
        while start < len(part):
            if room == 0:
                jobs.append((offset, []))
                room = CHUNK
            taken = part[start : start + room]
            jobs[-1][1].append(taken)
            start, offset, room = start + len(taken), offset + len(taken), room - len(taken)
    return jobs


def _write_jobs(descriptor: int, jobs: Sequence[Job]) -> None:
    # O_DIRECT wants aligned memory; copying into one aligned buffer is what any writer of arrays has to do
    with mmap.mmap(-1, CHUNK) as aligned:
        view = memoryview(aligned)
        for offset, parts in jobs:
            filled = 0
            for part in parts:
                view[filled : filled + len(part)] = part
                filled += len(part)
            padded = -(-filled // ALIGNMENT) * ALIGNMENT
            os.pwrite(descriptor, view[:padded], offset)
        view.release()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make a file, or all that is in a folder, durable: what a peer that does not fsync would need."""
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_file(Path(folder, name))
        sync_folder(Path(folder))
    if path.is_file():
        _sync_file(path)
    sync_folder(path.parent)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def evict(path: Path) -> None:
    """Drop a file, or all files of a folder, from the page cache; they must be durable."""
    paths = [Path(folder, name) for folder, _, names in os.walk(path) for name in names] or [path]
    for one in paths:
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read_plain(path: Path, parts: Sequence[memoryview], threads: int = 1) -> None:
    """Read a file into buffers that are there already."""
    jobs = _aligned_jobs(parts)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(_read_jobs, descriptor, jobs[index::threads]) for index in range(threads)]:
                done.result()
    finally:
        os.close(descriptor)


def _read_jobs(descriptor: int, jobs: Sequence[Job]) -> None:
    for offset, parts in jobs:
        position = offset
        for part in parts:
            position += os.preadv(descriptor, [part], position)


Write = Callable[[Path, Sequence[memoryview]], None]

WAYS: dict[str, Write] = {
    "plain write + fsync": write_plain,
    "early write-back + fsync": write_early,
    "O_DIRECT, 1 thread": lambda path, parts: write_direct(path, parts, 1),
    "O_DIRECT, 2 threads": lambda path, parts: write_direct(path, parts, 2),
}
"""The raw ways to make bytes durable."""
