"""JSON with exactly one spelling, so that it can be hashed; sealed with its own digest; read with suspicion."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from modelkeep.errors import Damaged, LimitExceeded, UsageError
from modelkeep.snapshot.pieces import digest
from modelkeep.values import Json

DOCUMENT_BYTES = 64 << 20
"""The longest JSON document that is read or written by default: 64 MiB."""

MAX_CONTAINERS = 4_000_000
"""The most brackets in a document: an empty list takes 2 bytes there and 30 times that in memory."""

# Strings are skipped whole; possessive, so that hostile quotes cannot make it run in squared time.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)


def canonical_json(value: Json | Mapping[str, Any]) -> bytes:
    """The one spelling of a JSON value: keys sorted by code point, no spaces, UTF-8, floats as Python's ``repr``.

    Raises:
        UsageError: for NaN, infinities, text that is not Unicode, and values that JSON does not have.

    >>> canonical_json({"b": [1, 1.0, None], "a": "é"}).decode()
    '{"a":"é","b":[1,1.0,null]}'
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"this is not JSON that can be kept: {error}") from None


def check_json(value: object, where: str, *, depth: int = 24) -> None:
    """Refuse what would not come back from JSON as it is: tuples, NaN, keys that are no text, numpy scalars.

    Raises:
        UsageError: naming the place within ``where``.

    >>> check_json({"loss": float("nan")}, "meta")
    Traceback (most recent call last):
        ...
    modelkeep.errors.UsageError: meta/loss: nan is not JSON; use None or a text
    """
    kind = type(value)
    if depth < 0:
        raise UsageError(f"{where[:100]}: nested too deeply to be kept as JSON")
    if kind is dict:
        assert isinstance(value, dict)
        for key, item in value.items():
            if type(key) is not str:
                raise UsageError(f"{where}: the key {key!r:.80} is of type {type(key).__name__}; JSON keys are text")
            check_json(item, f"{where}/{key}", depth=depth - 1)
    elif kind is list:
        assert isinstance(value, list)
        for index, item in enumerate(value):
            check_json(item, f"{where}/{index}", depth=depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {value} is not JSON; use None or a text")
    elif kind not in (str, int, float, bool, type(None)):
        raise UsageError(f"{where}: a value of type {kind.__name__} is not JSON; use dict, list, text or numbers")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def parse_json(
    data: bytes,
    *,
    key: str = "",
    limit_bytes: int = DOCUMENT_BYTES,
    max_depth: int = 32,
    constant: Callable[[str], Json] = _refuse_constant,
) -> Json:
    """Read JSON that somebody else may have written. Size and depth are checked before anything is built.

    Refused: duplicate keys, numbers that overflow, lone surrogates, anything but UTF-8; NaN and infinities, unless
    ``constant`` makes something of their names.

    Raises:
        LimitExceeded: more than ``limit_bytes`` bytes, ``max_depth`` containers within each other, or 4,000,000 in all.
        Damaged: not JSON as described; its ``key`` is the ``key`` given here.
    """
    where = f"{key}: " if key else ""
    if len(data) > limit_bytes:
        raise LimitExceeded(f"{where}the JSON has {len(data)} bytes, more than {limit_bytes}")
    containers = data.count(b"[") + data.count(b"{")
    if containers > MAX_CONTAINERS:
        raise LimitExceeded(f"{where}the JSON has {containers} lists and objects, more than {MAX_CONTAINERS}")
    if containers > max_depth:
        _check_depth(data, where, max_depth)
    try:
        value: Json = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=constant,
            parse_float=_finite,
        )
        if b"\\u" in data:
            canonical_json(value)  # refuses lone surrogates
        return value
    except (ValueError, UsageError, RecursionError) as error:
        raise Damaged(f"{where}this is not the JSON that was written: {error!s:.200}", key) from None


def _check_depth(data: bytes, where: str, max_depth: int) -> None:
    depth = 0
    for match in _TOKEN.finditer(data):
        token = data[match.start()]
        if token in b"[{":
            depth += 1
            if depth > max_depth:
                raise LimitExceeded(f"{where}the JSON is nested more than {max_depth} deep")
        elif token in b"]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {name!r:.80} stands there twice")
            seen.add(name)
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.40} overflows")
    return number


def seal(document: Mapping[str, Json]) -> bytes:
    """The canonical JSON of ``document`` with one more field, ``digest``: the BLAKE3 hash of the rest.

    >>> sorted(unseal(seal({"a": 1}), "somewhere"))
    ['a']
    """
    if "digest" in document:
        raise UsageError("a sealed document cannot have a field 'digest' of its own")
    return canonical_json({**document, "digest": digest(canonical_json(document))})


def unseal(data: bytes, key: str, *, limit_bytes: int = DOCUMENT_BYTES, max_depth: int = 32) -> dict[str, Json]:
    """The document that was sealed, without its ``digest``; every byte of ``data`` is checked.

    Raises:
        Damaged: one bit or more is not what was written; names ``key``.
        LimitExceeded: see `parse_json`.
    """
    document = parse_json(data, key=key, limit_bytes=limit_bytes, max_depth=max_depth)
    if not isinstance(document, dict) or "digest" not in document:
        raise Damaged(f"{key}: the record has no digest; restore it from a copy", key)
    wanted = document.pop("digest")
    if not _is_spelled(document, wanted, data):
        raise Damaged(f"{key}: the digest of the record does not match its content; restore it from a copy", key)
    return document


def _is_spelled(document: dict[str, Json], wanted: Json, data: bytes) -> bool:
    """Whether ``data`` is `seal` of ``document``, letter by letter: that catches flips that JSON would read over.

    Where the digest is the first field the rest is hashed as it stands: to spell a large record again takes longer than
    all else that is done with it.
    """
    first = b'{"digest":"%s",' % str(wanted).encode()
    if data.startswith(first) and min(document, default="") > "digest":
        return wanted == digest(b"{" + data[len(first) :])
    return wanted == digest(canonical_json(document)) and seal(document) == data
