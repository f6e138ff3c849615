"""Texts in the attributes of HDF5 objects: their bytes are counted before HDF5 copies them."""

import itertools
from typing import Any

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, UnknownFormat
from modelkeep.importers.source import Source


def read_text(thing: Any, name: str, source: Source, budget: Budget) -> str | None:
    """The text of an attribute, or None where there is none.

    Raises:
        LimitExceeded: longer than the budget's text.
        UnknownFormat: it is no text.
    """
    if name not in thing.attrs:
        return None
    found = _read(thing, name, source, budget, most=1)
    if len(found) != 1:
        raise UnknownFormat(f"{source.name}: the attribute {name!r} is no text")
    return found[0]


def read_texts(thing: Any, name: str, source: Source, budget: Budget) -> list[str]:
    """A list of texts; Keras splits one of more than 64 KB into ``name0``, ``name1`` and so on.

    Raises:
        LimitExceeded: longer than the budget's text.
        UnknownFormat: not texts.
        Damaged: there is no such attribute.
    """
    if name in thing.attrs:
        return _read(thing, name, source, budget)
    found: list[str] = []
    for number in itertools.count():
        if f"{name}{number}" not in thing.attrs:
            break
        found += _read(thing, f"{name}{number}", source, budget)
        budget.check("entries", len(found), source.name)
    if not found:
        raise Damaged(f"{source.name}: {thing.name!r:.200} has no attribute {name!r}", source.name)
    return found


def _read(thing: Any, name: str, source: Source, budget: Budget, *, most: int | None = None) -> list[str]:
    import h5py

    attribute = h5py.h5a.open(thing.id, name.encode())
    kind, count = attribute.get_type(), attribute.get_space().get_simple_extent_npoints()
    where = f"{source.name}: the attribute {name!r}"
    if not count:
        return []
    budget.check("entries", count, where)
    if kind.get_class() != h5py.h5t.STRING or (most is not None and count > most):
        raise UnknownFormat(f"{where} is no text")
    if not kind.is_variable_str():
        budget.check("text", count * kind.get_size(), where)
    elif count > 1:  # each item may be the same long text again: its length is only known when it has been copied
        budget.check("nbytes", count * source.size, f"{where}, of texts without a fixed length")
    else:
        budget.check("nbytes", source.size, where)
    value = thing.attrs[name]
    items = [value] if isinstance(value, (str, bytes)) else list(value.reshape(-1))
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in items]
    budget.check("text", sum(map(len, texts)), where)
    return texts
