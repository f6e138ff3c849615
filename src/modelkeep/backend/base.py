"""What a place for bytes can do: keys and bytes, nothing of tensors.

A key is a relative path of ``/``-separated segments. Every object is created once and never changed; ``create`` is
create-if-absent, the one primitive that directories and object stores share.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from modelkeep.errors import Damaged, InvalidName, LimitExceeded

SHARD_BYTES = 4 << 30
"""A shard holds at most so many bytes, where nothing asks for smaller ones; a larger state takes several."""

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+=-]{0,200}")


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One object of a listing."""

    key: str
    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch, by the store's clock."""


def check_key(key: str) -> str:
    """Return ``key`` if every backend can hold it.

    Raises:
        InvalidName: it is absolute, empty, leads upwards or holds characters that some backend refuses.

    >>> check_key("runs/digits/lock")
    'runs/digits/lock'
    """
    if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise InvalidName(
            f"key {key!r:.200} is not a relative path of letters, digits and `._@+=-`, none beginning with a dot"
        )
    return key


def too_short(key: str, wanted: int, found: int) -> Damaged:
    """The error for an object of ``found`` bytes."""
    return Damaged(f"{key} is {found} bytes long where {wanted} were wanted: it is cut short", key)


def check_limit(key: str, size: int, limit: int | None) -> None:
    """Raise LimitExceeded where ``size`` bytes of an object are more than ``limit``."""
    if limit is not None and size > limit:
        raise LimitExceeded(
            f"{key} has {size:,} bytes, and a record has at most {limit:,}; restore it from a copy of the keep"
        )


class ObjectWriter(Protocol):
    """An object under way; it does not exist for anybody until ``commit``."""

    def reserve(self, size: int) -> None:
        """Leave the first ``size`` bytes free, for ``write_at``; before anything is appended."""

    def append(self, data: memoryview) -> int:
        """Write at the end; return the offset."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Fill bytes that were reserved."""

    def commit(self) -> None:
        """Make the object exist; it is durable on return. Raises AlreadyExists where the key is taken."""

    def abort(self) -> None:
        """Give the object up and remove what was written; after ``commit`` it does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class SeenAtOnce:
    """What backends share whose objects everybody sees when they are created."""

    holds_back = False

    def flush(self) -> None:
        """Return when others see what was created: they do."""

    def afterwards(self, call: Callable[[], None]) -> None:
        """Call at once."""
        call()


class Backend(Protocol):
    """A place for immutable objects."""

    @property
    def url(self) -> str:
        """Where it is: ``file:///...``, ``memory://name``, ``s3://bucket/prefix``."""

    @property
    def exclusive_locks(self) -> bool:
        """Whether the kernel frees a lock when its holder dies, so that who has the lock is alone."""

    @property
    def shard_bytes(self) -> int:
        """The size to which large data are cut: one object, one request."""

    @property
    def requests(self) -> int:
        """How many requests are best under way at once; 1 where what they wait for is this machine."""

    def read(self, key: str, start: int = 0, end: int | None = None, *, limit: int | None = None) -> bytes:
        """Return bytes ``start`` to ``end`` (to the last). Raises NotFound; Damaged when the object is shorter.

        LimitExceeded when they are more than ``limit``; nothing was read.
        """

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill the whole writable ``buffer`` from ``start``. Raises NotFound; Damaged when the object is shorter."""

    def create(self, key: str, data: bytes | bytearray) -> None:
        """Create an object; durable on return. Raises AlreadyExists where the key is taken."""

    def settle(self, key: str) -> None:
        """Make an object durable that somebody else has created, and may have died before it was. Raises NotFound."""

    def writer(self, key: str, *, size_hint: int = 0) -> ObjectWriter:
        """Begin a large object of about ``size_hint`` bytes. Raises StorageError when there is no room for it."""

    def size(self, key: str) -> int:
        """Return the size in bytes. Raises NotFound."""

    def list(self, prefix: str, *, limit: int | None = None) -> Iterator[Entry]:
        """Yield the objects below ``prefix/`` (all of them for an empty prefix), keys ascending."""

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the folders directly in ``prefix/``, ascending, without listing what lies in them."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""

    def now(self) -> float:
        """Seconds since the epoch, by the clock that dates the objects."""

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Hold a lock. Raises RunLocked, with who holds it, when another process does."""

    @property
    def holds_back(self) -> bool:
        """Whether others may see what was created only later: then `afterwards` calls from another thread."""

    def flush(self) -> None:
        """Return when others see what was created. Raises StorageError, Fenced where that cannot be."""

    def afterwards(self, call: Callable[[], None]) -> None:
        """Call when others see what was created so far: at once, or later where it is held back."""

    def clean(self, prefix: str, older_than: float) -> int:
        """Remove unfinished objects that were begun before ``older_than``; return how many.

        Those below ``prefix/``; where that is no folder, those whose keys begin with ``prefix``, such as all of one
        writer. Another writer's unfinished objects must not be touched: it would fail.
        """
