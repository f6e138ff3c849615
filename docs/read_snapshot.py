"""Read a snapshot of a keep without modelkeep: ``python read_snapshot.py KEEP SNAPSHOT``. It checks no digests."""

import json
import math
import sys

import numpy as np
import safetensors


def read_snapshot(keep: str, snapshot: str) -> tuple[object, dict[str, np.ndarray]]:
    """The JSON tree of a snapshot, with {"$": "tensor"} where an array was, and the arrays by path."""
    with open(f"{keep}/snapshots/{snapshot[:2]}/{snapshot}.json", encoding="utf-8") as file:
        record = json.load(file)
    data = {}
    for shard in record["shards"]:
        with open(f"{keep}/shards/{shard[:2]}/{shard}.safetensors", "rb") as file:
            data |= {(shard, key): entry["data"] for key, entry in safetensors.deserialize(file.read())}
    pieces = {digest: data[shard, key] for digest, (shard, key, _) in record["pieces"].items()}
    tensors = record["logical"]["tensors"].items()
    return record["logical"]["tree"], {path: array_of(b"".join(map(pieces.get, t["pieces"])), t) for path, t in tensors}


def array_of(data: bytes, tensor: dict) -> np.ndarray:
    """An array from its bytes; texts are stored as 8 bytes for where each one ends, then all of them joined."""
    if tensor["dtype"] not in ("str", "bytes"):
        custom = () if tensor["dtype"] in np.sctypeDict or "[" in tensor["dtype"] else vars(__import__("ml_dtypes"))
        return np.frombuffer(data, np.dtype(custom[tensor["dtype"]] if custom else tensor["dtype"]))
    return data
