"""Many moments in one place: commit, read, runs, retention, garbage collection, verification.

It joins `snapshot`, which is pure, and `backend`, which is dumb. What is written, and in which order: shards, then the
record that names them, then the reference that names the record; readers go the other way.
"""

from modelkeep.store import layout
from modelkeep.store.check import Damage, VerifyReport
from modelkeep.store.resolve import find_checkpoint, newest_good
from modelkeep.store.retention import WRITER, Best, Retain, clear_leftovers, free, to_drop
from modelkeep.store.runs import Attempt, Checkpoint, MetricRow, RunRecord
from modelkeep.store.store import Store
from modelkeep.store.sweep import GRACE_SECONDS, Garbage, GcReport

__all__ = [
    "GRACE_SECONDS",
    "WRITER",
    "Attempt",
    "Best",
    "Checkpoint",
    "Damage",
    "Garbage",
    "GcReport",
    "MetricRow",
    "Retain",
    "RunRecord",
    "Store",
    "VerifyReport",
    "clear_leftovers",
    "find_checkpoint",
    "free",
    "layout",
    "newest_good",
    "to_drop",
]
