"""``.safetensors``: one file, shards with an index, or the folder of a Hugging Face model."""

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, UnknownFormat
from modelkeep.importers import folder as folders
from modelkeep.importers.source import Source, read_bytes
from modelkeep.importers.weights import Catalogue, Weights
from modelkeep.snapshot.dtypes import STORED_BYTES
from modelkeep.snapshot.safetensors import LENGTH_BYTES, Header, data_start, parse_header
from modelkeep.values import Json

FORMAT = "safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
_CONFIGS = ("config.json", "generation_config.json", "model_index.json", "adapter_config.json")

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
    metadata = _add_file(catalogue, source)
    return catalogue.weights(FORMAT, {"__metadata__": metadata})


def read_index(index: Source, folder: str, budget: Budget) -> Weights:
    """The tensors of all shards that an index names; every tensor must lie where the index says.

    Raises:
        Damaged: a tensor in another shard than the index says, or missing.
        Unsafe: the index names something that is no plain file beside it.
        NotFound: a shard is missing.
    """
    wanted, metadata = folders.read_weight_map(index, budget)
    catalogue = Catalogue(index.name, budget)
    for shard in sorted({file for files in wanted.values() for file in files}):
        source = folders.open_member(folder, shard)
        before = len(catalogue.names())
        _add_file(catalogue, source)
        for name in catalogue.names()[before:]:
            if wanted.get(name) != [shard]:
                raise Damaged(f"{source.name}: it holds {name!r:.200}, which the index has elsewhere", source.name)
    missing = wanted.keys() - set(catalogue.names())
    if missing:
        raise Damaged(f"{index.name}: no shard holds {min(missing)!r:.200}, nor {len(missing) - 1} others", index.name)
    return catalogue.weights(FORMAT, {"index": metadata})


def read_folder(folder: str, names: list[str], budget: Budget) -> Weights:
    """The tensors of a folder with one ``.safetensors`` file or one index, and the texts of its configurations.

    Raises:
        UnknownFormat: several, so that it is not clear which is meant; name the file itself.
    """
    found = [name for name in names if name.endswith(INDEX_SUFFIX)]
    found = found or [name for name in names if name.endswith(".safetensors")]
    if len(found) != 1:
        raise UnknownFormat(f"{folder}: it holds {', '.join(found):.300}; name the one that is meant")
    source = folders.open_member(folder, found[0])
    indexed = found[0].endswith(INDEX_SUFFIX)
    weights = read_index(source, folder, budget) if indexed else read_file(source, budget)
    texts: dict[str, Json] = {
        name: folders.read_text(folders.open_member(folder, name), budget) for name in _CONFIGS if name in names
    }
    return Weights(weights.format, weights.tensors, {**weights.metadata, **texts})


def _add_file(catalogue: Catalogue, source: Source) -> dict[str, Json]:
    """Take note of all tensors of one file; its ``__metadata__``."""
    header = _header(source, catalogue.budget)
    for entry in header.entries.values():
        catalogue.add_raw(entry.key, _DTYPES[entry.dtype], entry.shape, (source, header.data_start + entry.start))
    return dict(header.metadata)


def _header(source: Source, budget: Budget) -> Header:
    start = data_start(read_bytes(source, 0, min(LENGTH_BYTES, source.size)), source.size, source.name)
    budget.check("text", start, source.name)
    region = read_bytes(source, 0, start)
    # an entry has one brace that opens, the header itself and its __metadata__ two: counted before they are built
    budget.check("entries", region.count(b"{") - 2, source.name)
    return parse_header(region, size=source.size, key=source.name)
