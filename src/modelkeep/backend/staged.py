"""An object store with a folder of this machine before it: durable here at once, and uploaded behind.

What a training saves is a file in the folder when `create` returns, and goes up in the order in which it was created:
small objects one after another, for each may speak of those before; large ones side by side. What a killed process has
left goes up first when the folder is opened again. Whether somebody else was first is then seen late, so only what has
a writer of its own may wait (``may_wait``); all else is created in the store itself, once everything before it is up.
"""

import heapq
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from types import TracebackType
from typing import Self

from modelkeep.backend.base import Backend, Entry, ObjectWriter, check_key
from modelkeep.backend.local import LocalBackend
from modelkeep.backend.workers import Workers, step_back
from modelkeep.errors import (
    AlreadyExists,
    Damaged,
    Fenced,
    ModelkeepError,
    NotFound,
    StorageError,
    UsageError,
)

_ONE, _LARGE = "@", "="
"""After the number in a file's name: an object that goes up alone, and one that goes up beside its neighbours."""

_SLASH = "+"
"""For the slashes of a key in a file's name; no key of what may wait has one."""

_LONGEST = 200
"""Characters of a file's name; longer keys have folders of their own."""

_PATIENCE = 60.0
"""Seconds without any progress after which `flush` gives up."""

_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between attempts while the store is away; as long it is not asked for anything else."""

_OWNER = "store"
"""A file that says which store a folder is before."""


@dataclass(frozen=True, slots=True)
class _Object:
    """An object that waits."""

    key: str
    name: str
    """Of its file."""
    size: int
    made: float

    @property
    def is_large(self) -> bool:
        return self.name[10] == _LARGE


_OPEN: dict[str, "StagedBackend"] = {}
"""Those of this process, by folder: two would not know of each other."""

os.register_at_fork(after_in_child=_OPEN.clear)


class StagedBackend:
    """``remote`` with ``folder`` before it. Use `staged`: a process has one for a folder.

    Raises:
        UsageError: the folder is before another store.
        RunLocked: another process has it.
        StorageError: it cannot be made.
    """

    def __init__(self, remote: Backend, folder: str, may_wait: Callable[[str], bool]) -> None:
        self._remote, self._local, self._may_wait = remote, LocalBackend(folder), may_wait
        with ExitStack() as context:
            context.enter_context(self._local.lock("lock"))
            self._check_owner()
            self._local.clean("", time.time() + 3600)  # what a killed process was writing
            self._context = context.pop_all()
        self._condition = threading.Condition()
        self._waiting: dict[str, _Object] = {one.key: one for one in self._left()}
        """By key, in the order of their creation."""
        self._queue: list[_Object | Callable[[], None]] = [*self._waiting.values()]
        self._next = 1 + max((int(one.name[:10]) for one in self._waiting.values()), default=0)
        self._under_way: tuple[_Object | Callable[[], None], ...] = ()
        self._seen: dict[str, Entry] = {}
        """What is known to be in the store, for when it is away."""
        self._texts: dict[str, bytes] = {}
        """What was created in the store itself and is there still: few, and asked for while it is away."""
        self._known: set[str] = set()
        """The folders that were listed since this was opened."""
        self._moved = time.monotonic()
        """When something went up, or was there to go."""
        self._away_until = 0.0
        self._failures = 0
        self._reason = ""
        """Of the last failure."""
        self._error: ModelkeepError | None = None
        self._thread = threading.Thread(target=self._work, name="modelkeep-upload", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return self._remote.url

    @property
    def exclusive_locks(self) -> bool:
        return self._remote.exclusive_locks

    @property
    def shard_bytes(self) -> int:
        return self._remote.shard_bytes

    @property
    def requests(self) -> int:
        return self._remote.requests

    @property
    def waiting(self) -> int:
        """How many objects are here and not in the store yet."""
        return len(self._waiting)

    def read(self, key: str, start: int = 0, end: int | None = None, *, limit: int | None = None) -> bytes:
        found = self._waiting.get(check_key(key))
        if found is not None:
            with suppress(NotFound), _named(found):  # it may just have gone up
                return self._local.read(found.name, start, end, limit=limit)
        if key in self._texts:
            return self._texts[key][start:end]
        return self._remote.read(key, start, end, limit=limit)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        found = self._waiting.get(check_key(key))
        if found is not None:
            with suppress(NotFound), _named(found):
                return self._local.read_into(found.name, start, buffer)
        return self._remote.read_into(key, start, buffer)

    def create(self, key: str, data: bytes | bytearray) -> None:
        if not self._may_wait(check_key(key)):
            self.flush()
            self._remote.create(key, data)
            self._seen[key] = Entry(key, len(data), time.time())
            self._texts[key] = bytes(data)
            return
        self._must_be_new(key)
        with self._condition:
            name = self._name(key, _ONE)
            self._local.create(name, data)
            self._enqueue(_Object(key, name, len(data), time.time()))

    def settle(self, key: str) -> None:
        if key not in self._waiting:
            self._remote.settle(key)

    def writer(self, key: str, *, size_hint: int = 0) -> "ObjectWriter":
        if not self._may_wait(check_key(key)):
            self.flush()
            return self._remote.writer(key, size_hint=size_hint)
        self._must_be_new(key)
        with self._condition:
            name = self._name(key, _LARGE)
        return _StagedWriter(self, key, name, self._local.writer(name, size_hint=size_hint))

    def size(self, key: str) -> int:
        found = self._waiting.get(check_key(key))
        if found is not None:
            return found.size
        try:
            self._must_be_there()
            return self._remote.size(key)
        except StorageError:
            self._is_away()
            if key in self._seen:
                return self._seen[key].size
            if not self._may_wait(key) and not any(key.startswith(f"{folder}/") for folder in self._known):
                raise
            raise NotFound(f"there is no object {key} in {self.url}, as far as is known while it is away") from None

    def list(self, prefix: str, *, limit: int | None = None) -> Iterator[Entry]:
        below = f"{check_key(prefix)}/" if prefix else ""
        here = sorted(Entry(one.key, one.size, one.made) for one in self._snapshot() if one.key.startswith(below))
        return islice(_once(heapq.merge(here, self._listed(prefix, below))), limit)

    def folders(self, prefix: str) -> Iterator[str]:
        below = f"{check_key(prefix)}/" if prefix else ""
        keys = [one.key for one in self._snapshot() if one.key.startswith(below)]
        try:
            self._must_be_there()
            found = set(self._remote.folders(prefix))
            self._known.add(prefix)
        except StorageError:
            self._is_away()
            if prefix not in self._known:
                raise
            found = set()
            keys += [key for key in list(self._seen) if key.startswith(below)]
        below_keys = (key.removeprefix(below).partition("/") for key in keys)
        yield from sorted(found | {name for name, slash, _ in below_keys if slash})

    def delete(self, key: str) -> None:
        with self._condition:
            found = self._waiting.get(check_key(key))
            if found is not None and found not in self._under_way:
                self._queue.remove(found)
                del self._waiting[key]
                self._local.delete(found.name)
                return
        self._wait_while(lambda: key in self._waiting)
        self._remote.delete(key)
        self._seen.pop(key, None)
        self._texts.pop(key, None)

    def now(self) -> float:
        return self._remote.now()

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        with self._remote.lock(key):
            yield

    def clean(self, prefix: str, older_than: float) -> int:
        return self._remote.clean(prefix, older_than)

    def flush(self) -> None:
        """Return when everything is in the store.

        Raises:
            StorageError: for a minute nothing went up; what waits stays in the folder.
            Fenced: an object of that name is in the store, and is another's.
        """
        if threading.current_thread() is self._thread:
            return  # it does one thing after another
        self._wait_while(lambda: bool(self._queue))
        self._raise_error()

    @property
    def holds_back(self) -> bool:
        return True

    def afterwards(self, call: Callable[[], None]) -> None:
        with self._condition:
            self._queue.append(call)
            self._condition.notify_all()

    # Here

    def _check_owner(self) -> None:
        owner = self._remote.url.encode()
        with suppress(AlreadyExists):
            self._local.create(_OWNER, owner)
        found = self._local.read(_OWNER, limit=4096)
        if found != owner:
            raise UsageError(
                f"{self._local.folder} is the staging folder of {found.decode(errors='replace')}, not of {self.url}; "
                "name another folder"
            )

    def _left(self) -> Iterator[_Object]:
        for entry in self._local.list(""):
            number, kind, rest = entry.key[:10], entry.key[10:11], entry.key[11:]
            if number.isdecimal() and kind in (_ONE, _LARGE):
                key = rest[1:] if rest[:1] == "/" else rest.replace(_SLASH, "/")
                yield _Object(key, entry.key, entry.size, entry.modified)

    def _must_be_new(self, key: str) -> None:
        """Raise AlreadyExists where it is known to be there; while the store is away that may be found out later."""
        self._raise_error()
        with suppress(NotFound):
            self.size(key)
            raise AlreadyExists(f"{key} is in {self.url} already, and objects never change")

    def _name(self, key: str, kind: str) -> str:
        if key in self._waiting or key in self._seen:  # since it was looked for
            raise AlreadyExists(f"{key} is in {self.url} already, and objects never change")
        number, self._next = self._next, self._next + 1
        flat = f"{number:010d}{kind}{key.replace('/', _SLASH)}"
        return flat if len(flat) <= _LONGEST else f"{number:010d}{kind}/{key}"

    def _enqueue(self, found: _Object) -> None:
        if not self._queue:
            self._moved = time.monotonic()
        self._waiting[found.key] = found
        self._queue.append(found)
        self._condition.notify_all()

    def staged_commit(self, writer: ObjectWriter, found: _Object) -> None:
        """Make a large object durable here, and let it go up."""
        with self._condition:
            if found.key in self._waiting or found.key in self._seen:
                raise AlreadyExists(f"{found.key} is in {self.url} already, and objects never change")
            writer.commit()
            self._enqueue(found)

    def _snapshot(self) -> tuple[_Object, ...]:
        with self._condition:
            return tuple(self._waiting.values())

    def _raise_error(self) -> None:
        if self._error is not None:
            raise type(self._error)(*self._error.args)

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        """Raises StorageError where nothing goes up any more."""
        began = time.monotonic()
        while condition():
            self._raise_error()
            if time.monotonic() - max(self._moved, began) > _PATIENCE:
                raise StorageError(
                    f"{len(self._waiting)} objects wait in {self._local.folder}; they go up when it is opened again as "
                    f"the staging folder of {self.url}: {self._reason}"
                )
            with self._condition:
                self._condition.wait(0.2)

    # The store

    def _must_be_there(self) -> None:
        if time.monotonic() < self._away_until:
            raise StorageError(f"{self.url} is away")

    def _is_away(self) -> None:
        """Let it alone for a while: each question would take as long as its retries."""
        self._away_until = max(self._away_until, time.monotonic() + _PAUSES[0])

    def _listed(self, prefix: str, below: str) -> Iterator[Entry]:
        """What the store lists; while it is away, what is known of it."""
        last = ""
        try:
            self._must_be_there()
            entries = self._remote.list(prefix)
            first = next(entries, None)
            self._known.add(prefix)
            for entry in entries if first is None else chain((first,), entries):
                self._seen[entry.key] = entry
                last = entry.key
                yield entry
        except StorageError:
            self._is_away()
            if prefix not in self._known:
                raise
            yield from sorted(one for key, one in list(self._seen.items()) if key.startswith(below) and key > last)

    # The thread

    def _work(self) -> None:
        step_back()
        while True:
            with self._condition:
                while not self._queue:
                    self._condition.wait()
                batch = self._under_way = self._batch()
            try:
                self._do(batch)
                for one in batch:
                    if isinstance(one, _Object):
                        self._local.delete(one.name)
            except StorageError as error:
                self._wait_out(error)
                continue
            except Fenced as error:
                self._error = error
                return
            except Exception as error:  # noqa: BLE001  who creates or waits is told: nothing goes up any more
                self._error = StorageError(f"uploads to {self.url} have ended: {type(error).__name__}: {error}")
                return
            self._failures, self._away_until, self._moved = 0, 0.0, time.monotonic()
            with self._condition:
                del self._queue[: len(batch)]
                for one in batch:
                    if isinstance(one, _Object):
                        self._waiting.pop(one.key, None)
                self._under_way = ()
                self._condition.notify_all()

    def _batch(self) -> "tuple[_Object | Callable[[], None], ...]":
        """The first thing to do, with those behind it that may be done at the same time."""
        large = 0
        for one in self._queue[: self._remote.requests]:
            if not isinstance(one, _Object) or not one.is_large:
                break
            large += 1
        return tuple(self._queue[: max(1, large)])

    def _do(self, batch: "tuple[_Object | Callable[[], None], ...]") -> None:
        if len(batch) > 1:
            with Workers(len(batch), "modelkeep-upload") as pool:
                for done in [pool.submit(self._upload, one) for one in batch if isinstance(one, _Object)]:
                    done.result()
            return
        (one,) = batch
        if isinstance(one, _Object):
            self._upload(one)
            return
        try:
            one()
        except StorageError:
            raise
        except ModelkeepError as error:  # it frees space, and what is not freed is garbage for a later collection
            warnings.warn(f"{self.url}: {error}", RuntimeWarning, stacklevel=2)

    def _upload(self, found: _Object) -> None:
        data = self._local.read(found.name)
        try:
            self._remote.create(found.key, data)
        except AlreadyExists:
            if self._remote.read(found.key) != data:  # else a process that was killed has sent it up
                raise Fenced(
                    f"{found.key} is in {self.url} already, made by another: it has taken over while this one was "
                    f"away; what waits is in {self._local.folder}, and goes nowhere any more"
                ) from None
        self._seen[found.key] = Entry(found.key, found.size, found.made)

    def _wait_out(self, error: StorageError) -> None:
        """The store is away: go on later."""
        self._reason = str(error)
        pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        if not self._failures:
            text = (
                f"{len(self._waiting)} objects wait in {self._local.folder} and go up when the store is back: {error}"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        self._failures += 1
        self._away_until = time.monotonic() + pause
        time.sleep(pause)


class _StagedWriter:
    """A large object under way in the folder."""

    def __init__(self, backend: StagedBackend, key: str, name: str, writer: ObjectWriter) -> None:
        self._backend, self._key, self._name, self._writer = backend, key, name, writer
        self._size = 0

    def reserve(self, size: int) -> None:
        self._size = max(self._size, size)
        self._writer.reserve(size)

    def append(self, data: memoryview) -> int:
        offset = self._writer.append(data)
        self._size = offset + data.nbytes
        return offset

    def write_at(self, offset: int, data: bytes) -> None:
        self._writer.write_at(offset, data)

    def commit(self) -> None:
        self._backend.staged_commit(self._writer, _Object(self._key, self._name, self._size, time.time()))

    def abort(self) -> None:
        self._writer.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()


def staged(remote: Backend, folder: str | os.PathLike[str], may_wait: Callable[[str], bool]) -> StagedBackend:
    """``remote`` with ``folder`` before it, the same object for the same folder of this process."""
    path = os.path.realpath(os.path.expanduser(folder))
    found = _OPEN.get(path)
    if found is None:
        found = _OPEN[path] = StagedBackend(remote, path, may_wait)
    elif found.url != remote.url:
        raise UsageError(f"{path} is the staging folder of {found.url}, not of {remote.url}; name another folder")
    return found


@contextmanager
def _named(found: _Object) -> Iterator[None]:
    """Damage is told by the object's key, not by the name of its file."""
    try:
        yield
    except Damaged as error:
        raise Damaged(str(error).replace(found.name, found.key), found.key) from None


def _once(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Each key once: what has just gone up is in both listings."""
    last = ""
    for entry in entries:
        if entry.key != last:
            yield entry
            last = entry.key
