"""Numbers in names: counted downwards, so that an ascending listing begins with the newest.

Object stores list names in ascending order, a page at a time: the newest is then on the first page, however many
there are.
"""

import re

LAST_NUMBER = 9_999_999_999
"""Numbers are below this."""

_NAME = re.compile(r"[0-9]{10}")


def newest_first(number: int) -> str:
    """The name of number ``number``, from 1: ten digits.

    >>> newest_first(1), newest_first(2)
    ('9999999998', '9999999997')
    """
    return f"{LAST_NUMBER - number:010d}"


def oldest_first(number: int) -> str:
    """The name of number ``number`` where the order of a listing should be the order of time."""
    return f"{number:010d}"


def number_of(name: str) -> int | None:
    """The number that a name of `newest_first` stands for; None for a name that is none.

    >>> number_of("9999999998"), number_of("lock")
    (1, None)
    """
    return LAST_NUMBER - int(name) if _NAME.fullmatch(name) and int(name) < LAST_NUMBER else None
