"""The JSON objects of a keep: read within limits, and made sense of.

A digest proves that bytes are those that somebody wrote, not that they belong where they lie: each field is looked at.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from modelkeep.backend import Backend
from modelkeep.errors import Damaged, LimitExceeded, ModelkeepError, UnknownFormat
from modelkeep.snapshot.canonical import DOCUMENT_BYTES
from modelkeep.values import Json

OnDamage: TypeAlias = Callable[[str, Exception], object]
"""Told of an object that cannot be read: its key, and the error, whose message names the key too."""

DAMAGE: tuple[type[ModelkeepError], ...] = (Damaged, LimitExceeded)
"""What an object that is not as it was written raises when it is read."""


def read_document(backend: Backend, key: str) -> bytes:
    """Return the bytes of a JSON object, unchecked but for their number.

    Raises:
        NotFound, Damaged: as `Backend.read`.
        LimitExceeded: it is longer than any that modelkeep writes; nothing was read.
    """
    size = backend.size(key)
    if size > DOCUMENT_BYTES:
        raise LimitExceeded(
            f"{key} has {size:,} bytes, and a record has at most {DOCUMENT_BYTES:,}; restore it from a copy of the keep"
        )
    return backend.read(key, 0, size)


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
