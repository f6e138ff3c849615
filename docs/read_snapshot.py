"""Read a snapshot of a keep without modelkeep: ``python read_snapshot.py KEEP SNAPSHOT``. It checks no digests."""

import json
import sys
from pathlib import Path

import ml_dtypes  # noqa: F401  numpy then knows bfloat16, float8 and their like
import numpy as np
import safetensors


def read_snapshot(keep: str, snapshot: str) -> tuple[object, dict[str, np.ndarray]]:
    """Return the JSON tree, with {"$": "tensor"} where an array was, and the arrays by path."""
    record = json.loads(Path(keep, "snapshots", snapshot[:2], f"{snapshot}.json").read_bytes())
    data, arrays = {}, {}
    for shard in record["shards"]:
        file = Path(keep, "shards", shard[:2], f"{shard}.safetensors").read_bytes()
        data |= {(shard, key): entry["data"] for key, entry in safetensors.deserialize(file)}
    for path, spec in record["logical"]["tensors"].items():
        raw = b"".join(data[tuple(record["pieces"][digest][:2])] for digest in spec["pieces"])
        array = texts(raw, spec) if spec["dtype"] in ("str", "bytes") else np.frombuffer(raw, spec["dtype"])
        arrays[path] = array.reshape(spec["shape"])
    return record["logical"]["tree"], arrays


def texts(raw: bytes, spec: dict) -> np.ndarray:
    """An object array: for each text 8 bytes that say where it ends, counted from the last of them; then the texts."""
    ends = np.frombuffer(raw, "<u8", int(np.prod(spec["shape"])))
    items = [raw[ends.nbytes :][first:past] for first, past in zip([0, *ends], ends, strict=False)]
    return np.array([item.decode() if spec["dtype"] == "str" else item for item in items], object)


if __name__ == "__main__":
    tree, tensors = read_snapshot(sys.argv[1], sys.argv[2])
    print(json.dumps(tree, indent=1))
    print(*(f"{path} {array.dtype} {array.shape}" for path, array in tensors.items()), sep="\n")
