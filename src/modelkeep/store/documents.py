"""The JSON objects of a keep as bytes: none is read that is longer than one may be."""

from modelkeep.backend import Backend
from modelkeep.errors import LimitExceeded
from modelkeep.snapshot.canonical import DOCUMENT_BYTES


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
