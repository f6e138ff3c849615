"""Safetensors: a format that cannot run code; its header can still lie, and its file hold something else beside it."""

import math
from collections.abc import Iterator
from typing import Any

from modelkeep.scan.findings import Finding, beyond, damaged
from modelkeep.scan.source import Context, Source
from modelkeep.scan.strict_json import parse

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_LENGTH = 8
_WRITE_ANEW = "write it anew with safetensors, from tensors that you trust"


def looks_like(source: Source) -> bool:
    """Whether it begins with the length of a header, and then a JSON object."""
    head = source.read(0, _LENGTH + 1)
    return len(head) > _LENGTH and head[_LENGTH:] == b"{" and 2 <= int.from_bytes(head[:_LENGTH], "little") < 1 << 40


def findings(source: Source, context: Context) -> list[Finding]:
    """Findings of the header and of how the data lie. Raises LimitExceeded for a header beyond the budget."""
    length = int.from_bytes(source.read(0, _LENGTH), "little")
    if length > source.size - _LENGTH:
        return [damaged(source.name, f"a header of {length:,} bytes in a file of {source.size:,}")]
    context.budget.check("text", length, source.name)
    try:
        parsed = parse(source.read(_LENGTH, length), source.name, context)
    except ValueError as error:
        return [damaged(source.name, f"its header is not JSON ({str(error)[:100]})")]
    if not isinstance(parsed.value, dict):
        return [damaged(source.name, "its header is not an object")]
    found: list[Finding] = []
    if parsed.duplicates:
        what = f"tensors named twice: {', '.join(sorted(set(parsed.duplicates))[:5])}"
        found.append(_odd(source.name, what, "readers differ in which of the two they take"))
    context.budget.check("entries", len(parsed.value), source.name)
    return [*found, *_of_tensors(parsed.value, source, _LENGTH + length, context)]


def _odd(where: str, what: str, why: str) -> Finding:
    return Finding(where, what, "suspicious", why, _WRITE_ANEW)


def _of_tensors(header: dict[str, Any], source: Source, data_at: int, context: Context) -> Iterator[Finding]:
    spans: list[tuple[int, int, str]] = []
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(one, str) for one in metadata.values()):
        yield damaged(source.name, "its metadata are not texts")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        span = _span(entry)
        if span is None:
            yield damaged(f"{source.name} {name[:200]}", "its dtype, shape and offsets do not fit each other")
            return
        spans.append((*span, name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            what = f"{'a hole' if start > end else 'an overlap'} of {abs(start - end):,} bytes before {name[:200]}"
            yield _odd(source.name, what, "it hides data from those who read the tensors")
        end = max(end, stop)
    size = source.size - data_at
    if end > context.budget.nbytes:
        yield beyond(source.name, f"tensors of {end:,} bytes")
    if source.whole and end > size:
        yield damaged(source.name, f"{end - size:,} bytes of its tensors are missing")
    elif source.whole and end < size:
        yield _odd(source.name, f"{size - end:,} bytes behind its tensors", "the same file is something else to others")


_DIMENSIONS = 64
"""More would make the product of a shape a number of millions of digits; no library has more."""


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _DIMENSIONS
        and all(type(one) is int and 0 <= one < 1 << 63 for one in value)
    )


def _span(entry: Any) -> tuple[int, int] | None:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        return None
    shape, offsets, bits = entry["shape"], entry["data_offsets"], _BITS.get(str(entry["dtype"]))
    if bits is None or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        return None
    start, stop = offsets
    return (start, stop) if math.prod(shape) * bits == 8 * (stop - start) else None
