"""Read a snapshot of a keep without modelkeep: ``python read_snapshot.py KEEP SNAPSHOT``. It checks no digests."""

import json
import sys
from contextlib import suppress
from itertools import pairwise

import numpy as np
import safetensors

with suppress(ImportError):
    import ml_dtypes  # noqa: F401  numpy then knows bfloat16, float8 and their like


def read_snapshot(keep: str, snapshot: str) -> tuple[object, dict[str, np.ndarray]]:
    """Return the JSON tree, with {"$": "tensor"} where an array was, and the arrays by path."""
    with open(f"{keep}/snapshots/{snapshot[:2]}/{snapshot}.json", encoding="utf-8") as file:
        record = json.load(file)
    data = {}
    for shard in record["shards"]:
        with open(f"{keep}/shards/{shard[:2]}/{shard}.safetensors", "rb") as file:
            data |= {(shard, key): entry["data"] for key, entry in safetensors.deserialize(file.read())}
    arrays = {}
    for path, spec in record["logical"]["tensors"].items():
        raw = b"".join(data[tuple(record["pieces"][digest][:2])] for digest in spec["pieces"])
        array = texts(raw, spec) if spec["dtype"] in ("str", "bytes") else np.frombuffer(raw, spec["dtype"])
        arrays[path] = array.reshape(spec["shape"])
    return record["logical"]["tree"], arrays


def texts(raw: bytes, spec: dict) -> np.ndarray:
    """An object array: for each text 8 bytes that say where it ends, then the texts."""
    count = int(np.prod(spec["shape"]))
    ends = [0, *np.frombuffer(raw, "<u8", count).tolist()]
    items = (raw[8 * count :][first:past] for first, past in pairwise(ends))
    return np.fromiter((item.decode() if spec["dtype"] == "str" else item for item in items), object, count)


if __name__ == "__main__":
    tree, tensors = read_snapshot(sys.argv[1], sys.argv[2])
    print(json.dumps(tree, indent=1))
    print(*(f"{path} {array.dtype} {array.shape}" for path, array in tensors.items()), sep="\n")
