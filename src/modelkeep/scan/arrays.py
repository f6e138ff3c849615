"""NumPy's `.npy`: an array, or a pickle when it holds objects."""

import ast
import math
import re
from typing import Any

from modelkeep.scan import pickles
from modelkeep.scan.findings import Finding, beyond, damaged
from modelkeep.scan.source import Context, Source, Window

MAGIC = b"\x93NUMPY"
_HEADER = 10_000
"""NumPy itself refuses longer headers, since they are parsed as Python."""


def findings(source: Source, context: Context) -> list[Finding]:
    """Findings of one `.npy`, and of those that were saved behind it into the same file."""
    at = 0
    found: list[Finding] = []
    while at < source.size:
        try:
            header, data_at = _header(source, at)
            itemsize, count = _measure(header)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError, KeyError) as error:
            return [*found, damaged(source.name, f"its header cannot be read ({str(error)[:100]})")]
        if itemsize is None:
            return [*found, *_of_objects(source, data_at, context)]
        if count * itemsize > context.budget.nbytes:
            return [*found, beyond(source.name, f"an array of {count * itemsize:,} bytes")]
        at = data_at + count * itemsize
        if at > source.size:
            return [*found, damaged(source.name, f"{at - source.size:,} bytes of its array are missing")]
        if at < source.size and source.read(at, len(MAGIC)) != MAGIC and source.whole:
            what, why = f"{source.size - at:,} bytes behind its array", "the same file is something else to others"
            return [*found, Finding(source.name, what, "suspicious", why, "save the array anew")]
    return found


def _header(source: Source, at: int) -> tuple[dict[str, Any], int]:
    head = source.read(at, 12)
    wide = head[6] > 1
    length = int.from_bytes(head[8:12] if wide else head[8:10], "little")
    if length > _HEADER:
        raise ValueError(f"it has {length:,} bytes")
    start = at + (12 if wide else 10)
    text = source.read(start, length).decode("utf-8" if head[6] > 2 else "latin-1")
    value = ast.literal_eval(text.strip())
    if not isinstance(value, dict) or set(value) != {"descr", "fortran_order", "shape"}:
        raise ValueError("it lacks descr, fortran_order or shape")
    return value, start + length


def _measure(header: dict[str, Any]) -> tuple[int | None, int]:
    """Bytes of one value (None: Python objects) and the count of values."""
    shape = header["shape"]
    if not isinstance(shape, tuple) or not all(isinstance(one, int) and one >= 0 for one in shape):
        raise ValueError("its shape is none")
    return _itemsize(header["descr"], 0), math.prod(shape)


def _itemsize(descr: Any, depth: int) -> int | None:
    if depth > 8:
        raise ValueError("records within records without end")
    if isinstance(descr, str):
        matched = re.fullmatch(r"[<>|=]?([a-zA-Z?])(\d*)(\[[^\]]*\])?", descr)
        if matched is None:
            raise ValueError(f"dtype {descr[:40]!r}")
        if matched[1] == "O":
            return None
        return int(matched[2] or 1) * (4 if matched[1] == "U" else 1)
    if isinstance(descr, tuple) and len(descr) == 2:
        inner = _itemsize(descr[0], depth + 1)
        shape = descr[1] if isinstance(descr[1], tuple) else (descr[1],)
        return None if inner is None else inner * math.prod(shape)
    if isinstance(descr, list):
        fields = [_itemsize(one[1] if len(one) == 2 else (one[1], one[2]), depth + 1) for one in descr]
        return None if None in fields else sum(one for one in fields if one is not None)
    raise ValueError("a dtype of an unknown kind")


def _of_objects(source: Source, data_at: int, context: Context) -> list[Finding]:
    window = Window(source.file, data_at, source.size - data_at).buffered()
    inner = Source(f"{source.name} objects", window, source.size - data_at, whole=source.whole)
    return pickles.findings(inner, context)
