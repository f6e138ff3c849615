"""Where each object of a keep lies: keys only."""

import re

from modelkeep.store.numbering import newest_first
from modelkeep.values import SnapshotId

KEEP = "keep.json"
SHARDS = "shards"
SNAPSHOTS = "snapshots"
RUNS = "runs"
MODELS = "models"
CONDEMNED = "gc/condemned"
CONDEMNED_SNAPSHOTS = "gc/snapshots"
SHARD_SUFFIX = ".safetensors"


_MAY_WAIT = re.compile(rf"(?:{SHARDS}|{SNAPSHOTS}|{RUNS})/.*")
_AT_ONCE = re.compile(rf"{RUNS}/[^/]+/attempts/[^/]+/start\.json")


def may_wait(key: str) -> bool:
    """Whether others may see an object later than it was created: what one writer alone makes, that of a run.

    The start of an attempt must be seen at once, for it fences older ones.
    """
    return _MAY_WAIT.fullmatch(key) is not None and _AT_ONCE.fullmatch(key) is None


def shard_folder(writer: str) -> str:
    """The folder of all shards of one writer: one, so that a save makes one folder's names durable."""
    return f"{SHARDS}/{writer[:2]}"


def shard_key(shard: str) -> str:
    """The key of a shard; its id is ``<writer>-<n>``.

    >>> shard_key("ab12-3")
    'shards/ab/ab12-3.safetensors'
    """
    return f"{shard_folder(shard)}/{shard}{SHARD_SUFFIX}"


def shard_of(key: str) -> str:
    """The id of the shard at ``key``."""
    return key.rpartition("/")[2].removesuffix(SHARD_SUFFIX)


def snapshot_key(snapshot: SnapshotId) -> str:
    """The key of a snapshot's record."""
    return f"{SNAPSHOTS}/{snapshot[:2]}/{snapshot}.json"


def snapshot_of(key: str) -> SnapshotId:
    """The id of the snapshot whose record is at ``key``."""
    return SnapshotId(key.rpartition("/")[2].removesuffix(".json"))


def condemned_key(name: str) -> str:
    """The key of a list of shards that are about to be deleted."""
    return f"{CONDEMNED}/{name}.json"


def condemned_snapshot_key(snapshot: SnapshotId) -> str:
    """The key of the sentence of a snapshot whose record is about to be deleted."""
    return f"{CONDEMNED_SNAPSHOTS}/{snapshot}.json"


def model_folder(model: str) -> str:
    """The key below which everything of a model lies."""
    return f"{MODELS}/{model}"


def versions_folder(model: str) -> str:
    """The folder of a model's versions."""
    return f"{model_folder(model)}/versions"


def aliases_folder(model: str) -> str:
    """The folder with a folder for each alias of a model."""
    return f"{model_folder(model)}/aliases"


def removals_folder(model: str) -> str:
    """The folder with a folder for each version of a model whose removal was begun, named as the version is."""
    return f"{model_folder(model)}/removals"


def exports_folder(model: str, version: int) -> str:
    """The folder of the exports of a version, named as the version is."""
    return f"{model_folder(model)}/exports/{newest_first(version)}"


_KNOWN = re.compile(
    r"keep\.json"
    r"|shards/[0-9a-f]{2}/[0-9a-f]{16}-[0-9]{1,9}\.safetensors"
    r"|snapshots/[0-9a-f]{2}/[0-9a-f]{64}\.json"
    r"|gc/(condemned/[0-9]{10}|snapshots/[0-9a-f]{64})\.json"
    r"|runs/[^/]+/(attempts/[0-9]{10}/(start|metrics/[0-9]{10})|checkpoints/[0-9]{10}|dropped/[0-9]{10}"
    r"|finished/[0-9]{10})\.json"
    r"|models/[^/]+/(versions/[0-9]{10}|(removals|exports)/[0-9]{10}/[0-9]{10}|aliases/[^/]+/[0-9]{10})\.json"
)


def is_known(key: str) -> bool:
    """Whether an object of a keep may have this key.

    >>> is_known("keep.json"), is_known("notes.txt")
    (True, False)
    """
    return _KNOWN.fullmatch(key) is not None
