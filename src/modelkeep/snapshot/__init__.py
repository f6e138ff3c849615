"""One moment as a record: dtypes, pieces and their digests, canonical JSON, the record, the shard header.

Pure: values in, values out; no I/O, no clock, no framework. It does not know where bytes lie; `store` does.
"""

from modelkeep.snapshot.parts import Place, ShardInfo, TensorSpec
from modelkeep.snapshot.record import Snapshot

__all__ = ["Place", "ShardInfo", "Snapshot", "TensorSpec"]
