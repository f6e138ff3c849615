"""Many moments in one place: commit, read, runs, models, retention, garbage collection, verification.

It joins `snapshot`, which is pure, and `backend`, which is dumb. What is written, and in which order: shards, then the
record that names them, then the reference that names the record; readers go the other way.
"""

from modelkeep.store import layout
from modelkeep.store.aliases import Move
from modelkeep.store.check import Damage, VerifyReport
from modelkeep.store.exports import Export, Exports
from modelkeep.store.models import ModelRecord
from modelkeep.store.promote import Part
from modelkeep.store.resolve import find_checkpoint, find_version, newest_good
from modelkeep.store.retention import WRITER, Best, Retain, clear_leftovers, free, free_versions, to_drop
from modelkeep.store.runs import Attempt, Checkpoint, MetricRow, RunRecord
from modelkeep.store.save import VERSION_SHARDS
from modelkeep.store.store import Store
from modelkeep.store.sweep import GRACE_SECONDS, Garbage, GcReport
from modelkeep.store.versions import Parent, Version

__all__ = [
    "GRACE_SECONDS",
    "VERSION_SHARDS",
    "WRITER",
    "Attempt",
    "Best",
    "Checkpoint",
    "Damage",
    "Export",
    "Exports",
    "Garbage",
    "GcReport",
    "MetricRow",
    "ModelRecord",
    "Move",
    "Parent",
    "Part",
    "Retain",
    "RunRecord",
    "Store",
    "VerifyReport",
    "Version",
    "clear_leftovers",
    "find_checkpoint",
    "find_version",
    "free",
    "free_versions",
    "layout",
    "newest_good",
    "to_drop",
]
