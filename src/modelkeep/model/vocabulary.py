"""Vocabularies: of lookup layers in an architecture, where they are lists and never the path of a file."""

from typing import TYPE_CHECKING, Any

import keras
from keras.src.layers.preprocessing.index_lookup import IndexLookup

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, Unsafe

if TYPE_CHECKING:
    from modelkeep.model.allowlist import Named
    from modelkeep.model.walk import Walk, Where

_LOOKUPS = ("StringLookup", "IntegerLookup", "TextVectorization")


def check(walk: "Walk", named: "Named", config: dict[str, Any], where: "Where") -> tuple[str, ...]:
    """Check the vocabulary of a lookup layer; return the fields that need no other check. Others have none.

    Raises:
        Unsafe: the vocabulary is a text: the path or the address of a file.
        LimitExceeded: more entries than the budget has, or entries that numpy would make larger than it.
        Damaged: no list of texts or of numbers.
    """
    if not is_lookup(named.found):
        return ()
    taken = []
    for key in ("vocabulary", "idf_weights"):
        value = config.get(key)
        if value is None:
            continue
        place = walk.place((where, key))
        if isinstance(value, str):
            raise Unsafe(
                f"{place}: is the path or the address of a file, {value!r:.120}; nothing was opened. Put the entries "
                "themselves there, as a list"
            )
        if isinstance(value, dict):
            continue  # an array that Keras has written as such
        walk.entries += check_entries(value, walk.budget, place, numbers=key == "idf_weights")
        walk.budget.check("vocabulary", walk.entries, place)
        taken.append(key)
    oov = config.get("num_oov_indices")
    if type(oov) is int:
        walk.budget.check("vocabulary", oov, walk.place((where, "num_oov_indices")))
    if config.get("pad_to_max_tokens") is True and type(config.get("max_tokens")) is int:
        walk.budget.check("nbytes", 4 * config["max_tokens"], walk.place((where, "max_tokens")))
    return tuple(taken)


def is_lookup(cls: Any) -> bool:
    """Whether ``cls`` keeps a vocabulary as Keras' lookup layers do."""
    lookups = tuple(getattr(keras.layers, name) for name in _LOOKUPS)
    return isinstance(cls, type) and issubclass(cls, (IndexLookup, *lookups))


def check_entries(value: object, budget: Budget, where: str, *, numbers: bool) -> int:
    """Return the number of entries of a vocabulary, or of the weights of its entries, once all are checked.

    >>> check_entries(["a", 1], Budget(), "vocabulary", numbers=False)
    Traceback (most recent call last):
        ...
    modelkeep.errors.Damaged: vocabulary: entries that are all texts or all whole numbers are wanted, not int and str
    """
    if not isinstance(value, list | tuple):
        raise Damaged(f"{where}: a list is wanted, not {type(value).__name__}")
    budget.check("vocabulary", len(value), where)
    kinds = set(map(type, value))
    if not (kinds <= {int, float} if numbers else len(kinds) <= 1 and kinds <= {str, int}):
        found = " and ".join(sorted(kind.__name__ for kind in kinds))
        wanted = "numbers" if numbers else "entries that are all texts or all whole numbers"
        raise Damaged(f"{where}: {wanted} are wanted, not {found}")
    if kinds == {str}:
        # numpy keeps each entry as long as the longest, in four bytes a character
        budget.check("nbytes", 4 * len(value) * max(map(len, value)), where)
    elif int in kinds and max(map(abs, value)) >= 1 << 63:
        raise Damaged(f"{where}: a number that no integer type of an array holds")
    return len(value)
