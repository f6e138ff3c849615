"""The JSON objects of a keep: read within limits, and made sense of.

A digest proves that bytes are those that somebody wrote, not that they belong where they lie: each field is looked at.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TypeAlias, TypeVar

from modelkeep.backend import Backend
from modelkeep.errors import Damaged, LimitExceeded, ModelkeepError, UnknownFormat
from modelkeep.snapshot.canonical import DOCUMENT_BYTES
from modelkeep.state.leaves import decode, encode
from modelkeep.store.numbering import number_of
from modelkeep.values import Json, SnapshotId

_SNAPSHOT_ID = re.compile(r"[0-9a-f]{64}")

OnDamage: TypeAlias = Callable[[str, Exception], object]
"""Told of an object that cannot be read: its key, and the error, whose message names the key too."""

Item = TypeVar("Item")
Found = TypeVar("Found")

DAMAGE: tuple[type[ModelkeepError], ...] = (Damaged, LimitExceeded)
"""What an object that is not as it was written raises when it is read."""


def key_of(error: Exception, otherwise: str) -> str:
    """The key of the object that an error is about, or ``otherwise`` where it names none."""
    return getattr(error, "key", "") or otherwise


def read_document(backend: Backend, key: str) -> bytes:
    """Return the bytes of a JSON object, unchecked but for their number.

    Raises:
        NotFound, Damaged: as `Backend.read`.
        LimitExceeded: it is longer than any that modelkeep writes; nothing was read.
    """
    return backend.read(key, limit=DOCUMENT_BYTES)


def read_ahead(
    backend: Backend, items: Iterable[Item], read: Callable[[Item], Found]
) -> Iterator[tuple[Item, Callable[[], Found]]]:
    """Each item with what gives its ``read``, or raises as that does.

    Where a store is waited for, more and more are read side by side the further the caller goes: who wants the first
    alone asks for no other.
    """
    if backend.requests == 1:
        yield from ((item, partial(read, item)) for item in items)
        return
    left, count = iter(items), 1
    with ThreadPoolExecutor(backend.requests, "modelkeep-records") as pool:
        while batch := [(item, pool.submit(read, item)) for item in islice(left, count)]:
            yield from ((item, under_way.result) for item, under_way in batch)
            count = min(2 * count, backend.requests)


def numbers_in(backend: Backend, folder: str) -> Iterator[int]:
    """The numbers of the objects in a folder, newest first; files of other names are passed over."""
    for entry in backend.list(folder):
        if entry.key.endswith(".json"):
            number = number_of(entry.key.removeprefix(f"{folder}/").removesuffix(".json"))
            if number is not None:
                yield number


@contextmanager
def making_sense(key: str, what: str) -> Iterator[None]:
    """Turn what a sealed object lacks into `Damaged`, and have every error name the object's key, once."""
    try:
        yield
    except KeyError as error:
        raise Damaged(f"{key} is not {what}: it has no field {error}; restore it from a copy", key) from None
    except (TypeError, Damaged) as error:
        raise Damaged(f"{key} is not {what}: {error}; restore it from a copy", key) from None
    except UnknownFormat as error:
        raise UnknownFormat(f"{key}: {error}") from None


def must_be(number: int, found: Json) -> None:
    """Raise TypeError unless the number in an object is the one in its name."""
    if found != number:
        raise TypeError(f"its number is {found!r:.40}, and its name says {number}")


def mapping_of(value: Json) -> Mapping[str, Json]:
    """``value``, an object. Raises TypeError; so do those below."""
    if not isinstance(value, Mapping):
        raise TypeError(f"an object was expected, not {value!r:.40}")
    return value


def list_of(value: Json) -> list[Json]:
    """``value``, a list."""
    if not isinstance(value, list):
        raise TypeError(f"a list was expected, not {value!r:.40}")
    return value


def int_of(value: Json) -> int:
    """``value``, a whole number; true and 1.0 are none."""
    if type(value) is not int:
        raise TypeError(f"a whole number was expected, not {value!r:.40}")
    return value


def float_of(value: object) -> float:
    """``value``, a number."""
    if type(value) is not int and type(value) is not float:
        raise TypeError(f"a number was expected, not {value!r:.40}")
    return float(value)


def snapshot_id_of(value: Json) -> SnapshotId:
    """``value``, the id of a snapshot: it becomes part of a key, so nothing but our own form may pass."""
    if not isinstance(value, str) or not _SNAPSHOT_ID.fullmatch(value):
        raise TypeError("its snapshot is no snapshot id")
    return SnapshotId(value)


def encode_metrics(values: Mapping[str, float]) -> dict[str, Json]:
    """Metrics as JSON, NaN and infinities too."""
    return {name: encode(float(value), name) for name, value in values.items()}


def decode_metrics(values: Json) -> dict[str, float]:
    """The metrics that were encoded. Raises TypeError, Damaged."""
    return {
        name: float_of(decode(dict(value), name) if isinstance(value, Mapping) else value)
        for name, value in mapping_of(values).items()
    }
