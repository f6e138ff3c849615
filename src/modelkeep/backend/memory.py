"""A keep in memory: for tests, and for what need not outlive the process. Shared by name within the process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from modelkeep.backend.base import SHARD_BYTES, Backend, Entry, SeenAtOnce, check_key, check_limit, too_short
from modelkeep.errors import AlreadyExists, NotFound


@dataclass
class _Place:
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    guard: threading.RLock = field(default_factory=threading.RLock)


_PLACES: dict[str, _Place] = {}


class MemoryBackend(SeenAtOnce):
    """Objects in a dictionary; as durable as the process.

    >>> place = MemoryBackend("example")
    >>> place.create("a/b", b"hello")
    >>> [entry.key for entry in place.list("a")]
    ['a/b']
    """

    exclusive_locks = True
    shard_bytes = SHARD_BYTES
    requests = 1

    def __init__(self, name: str, *, create: bool = True) -> None:
        if name not in _PLACES and not create:
            raise NotFound(f"there is no keep memory://{name} in this process")
        self._name = name
        self._place = _PLACES.setdefault(name, _Place())

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    def read(self, key: str, start: int = 0, end: int | None = None, *, limit: int | None = None) -> bytes:
        data = self._data(key)
        stop = len(data) if end is None else end
        if not 0 <= start <= stop <= len(data):
            raise too_short(key, stop, len(data))
        check_limit(key, stop - start, limit)
        return data[start:stop]

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        view = buffer.cast("B")
        view[:] = self.read(key, start, start + len(view))

    def create(self, key: str, data: bytes | bytearray) -> None:
        with self._place.guard:
            if check_key(key) in self._place.objects:
                raise AlreadyExists(f"{key} is in {self.url} already, and objects never change")
            self._place.objects[key] = (bytes(data), self.now())

    def settle(self, key: str) -> None:
        self._data(key)

    def writer(self, key: str, *, size_hint: int = 0) -> "MemoryWriter":  # noqa: ARG002  memory has no disk to fill
        return MemoryWriter(self, check_key(key))

    def size(self, key: str) -> int:
        return len(self._data(key))

    def list(self, prefix: str, *, limit: int | None = None) -> Iterator[Entry]:
        below = f"{check_key(prefix)}/" if prefix else ""
        with self._place.guard:
            found = sorted(key for key in self._place.objects if key.startswith(below))[:limit]
            entries = [Entry(key, len(self._place.objects[key][0]), self._place.objects[key][1]) for key in found]
        yield from entries

    def folders(self, prefix: str) -> Iterator[str]:
        below = f"{check_key(prefix)}/" if prefix else ""
        with self._place.guard:
            names = {key.removeprefix(below) for key in self._place.objects if key.startswith(below)}
        found = sorted({name.partition("/")[0] for name in names if "/" in name})
        yield from found

    def delete(self, key: str) -> None:
        with self._place.guard:
            self._place.objects.pop(check_key(key), None)

    def now(self) -> float:
        return time.time()

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """No other process can see this place, and within a process locks are re-entrant."""
        check_key(key)
        yield

    def clean(self, prefix: str, older_than: float) -> int:  # noqa: ARG002  what is unfinished is seen by nobody
        return 0

    def _data(self, key: str) -> bytes:
        try:
            return self._place.objects[check_key(key)][0]
        except KeyError:
            raise NotFound(f"there is no object {key} in {self.url}") from None


class MemoryWriter:
    """An object under way in a buffer; its commit is the backend's ``create``."""

    def __init__(self, backend: Backend, key: str) -> None:
        self._backend = backend
        self._key = key
        self._buffer = bytearray()

    def reserve(self, size: int) -> None:
        self._buffer.extend(bytes(max(0, size - len(self._buffer))))

    def append(self, data: memoryview) -> int:
        offset = len(self._buffer)
        self._buffer += data.cast("B")
        return offset

    def write_at(self, offset: int, data: bytes) -> None:
        self._buffer[offset : offset + len(data)] = data

    def commit(self) -> None:
        self._backend.create(self._key, self._buffer)
        self.abort()

    def abort(self) -> None:
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()
