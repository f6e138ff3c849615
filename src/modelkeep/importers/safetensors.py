"""``.safetensors``: one file. Shards with an index are put together by `modelkeep.importers.index`."""

from modelkeep.budget import Budget
from modelkeep.importers.source import Source, read_bytes
from modelkeep.importers.weights import Catalogue, Weights
from modelkeep.snapshot.dtypes import STORED_BYTES
from modelkeep.snapshot.safetensors import LENGTH_BYTES, Header, data_start, parse_header

FORMAT = "safetensors"

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
assert _DTYPES.keys() == STORED_BYTES.keys()


def looks_like(head: bytes) -> bool:
    """Whether a file that begins with ``head`` may be one: a length, and a JSON object behind it."""
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    return head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and length < 1 << 48


def read_file(source: Source, budget: Budget) -> Weights:
    """The tensors of one file.

    Raises:
        Damaged: not the format: holes, overlaps, sizes that do not fit, duplicate names.
        LimitExceeded: the header or the tensors are more than the budget allows.
        UnknownFormat: a dtype that is not known, such as those that pack several values into a byte.
    """
    catalogue = Catalogue(source.name, budget)
    header = _header(source, budget)
    for entry in header.entries.values():
        catalogue.add_raw(entry.key, _DTYPES[entry.dtype], entry.shape, (source, header.data_start + entry.start))
    return catalogue.weights(FORMAT, {"__metadata__": dict(header.metadata)})


def _header(source: Source, budget: Budget) -> Header:
    start = data_start(read_bytes(source, 0, min(LENGTH_BYTES, source.size)), source.size, source.name)
    budget.check("text", start, source.name)
    region = read_bytes(source, 0, start)
    # an entry has one brace that opens, the header itself and its __metadata__ two: counted before they are built
    budget.check("entries", region.count(b"{") - 2, source.name)
    return parse_header(region, size=source.size, key=source.name)
