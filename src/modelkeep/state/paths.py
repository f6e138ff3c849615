"""The names of leaves: segments joined by ``/``, so written that no two leaves of one tree share a name."""

import re
from collections.abc import Iterator
from functools import lru_cache

from modelkeep.errors import InvalidName, UnsupportedState

PATH_BYTES = 2048
"""The longest path, in UTF-8 bytes: every piece carries its path in a shard's header, which has a budget."""

ROOT = ""

# '/' joins segments, '%' escapes, '*' is a pattern, '#' divides path and rows in a shard.
_ESCAPED = re.compile(r"[/%*#\x00-\x1f\x7f-\x9f]")
_NUMBER = re.compile(r"-?[0-9]+")


def segment(key: str | int) -> str:
    """One key as a path segment. Integers are plain decimals; a text key that looks like one is escaped.

    >>> segment(3), segment("3"), segment("a/b"), segment(""), segment("kernel")
    ('3', '%33', 'a%2Fb', '%', 'kernel')
    """
    return str(key) if isinstance(key, int) else _text_segment(key)


@lru_cache(maxsize=8192)  # a training has the same keys in each of its states
def _text_segment(key: str) -> str:
    if key == "":
        return "%"
    if _NUMBER.fullmatch(key) or key == "__metadata__":  # the latter is what safetensors keeps for itself
        return _escape(key[0]) + _ESCAPED.sub(lambda match: _escape(match.group()), key[1:])
    return _ESCAPED.sub(lambda match: _escape(match.group()), key)


def _escape(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode())


def child(path: str, key: str | int) -> str:
    """The path of the entry ``key`` of the container at ``path``.

    Raises:
        UnsupportedState: when the path grows longer than 2048 bytes or the key is not Unicode text.

    >>> child("", "model"), child("model", 0)
    ('model', 'model/0')
    """
    try:
        part = segment(key)
        longer = f"{path}/{part}" if path else part
        size = len(longer) if longer.isascii() else len(longer.encode())
    except UnicodeEncodeError:
        raise UnsupportedState(f"{shown(path)}: the key {key!r:.80} has a lone surrogate; use Unicode text") from None
    except ValueError:  # an int of more decimal digits than Python writes
        raise UnsupportedState(f"{shown(path)}: an int key has more than 4300 digits; use a text key") from None
    if size > PATH_BYTES:
        raise UnsupportedState(
            f"{longer[:80]}…: the path has {size} bytes, at most {PATH_BYTES} can be kept; use shorter keys"
        )
    return longer


def shown(path: str) -> str:
    """The path as messages show it.

    >>> shown(""), shown("a/b")
    ('the state', 'a/b')
    """
    return path or "the state"


class Pattern:
    """A glob over paths: ``*`` stands for any text within one segment, ``**`` for any number of segments.

    A pattern that matches a container takes everything in it.

    >>> Pattern("optimizer/*/kernel").matches("optimizer/dense/kernel")
    True
    >>> Pattern("model/**").matches("model"), Pattern("**/kernel").matches("model/dense/kernel")
    (True, True)
    """

    __slots__ = ("_segments", "text")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise InvalidName(f"a select pattern is text such as 'model/**', not {type(text).__name__}")
        self.text = text
        self._segments = tuple(None if part == "**" else _segment_regex(part) for part in text.strip("/").split("/"))

    def matches(self, path: str) -> bool:
        """Whether the whole path follows the pattern."""
        places = self._skipped({0})
        for part in path.split("/") if path else ():
            places = self._skipped({place for start in places for place in self._step(start, part)})
        return len(self._segments) in places

    def _step(self, place: int, part: str) -> Iterator[int]:
        """The places in the pattern that ``part`` leads to from ``place``."""
        if place < len(self._segments):
            regex = self._segments[place]
            if regex is None:
                yield place
            elif regex.fullmatch(part):
                yield place + 1

    def _skipped(self, places: set[int]) -> set[int]:
        """``places`` and those behind each ``**`` that stands for nothing."""
        for place in sorted(places):
            while place < len(self._segments) and self._segments[place] is None:
                place += 1
                places.add(place)
        return places


def _segment_regex(part: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(re.escape(piece) for piece in part.split("*")))
