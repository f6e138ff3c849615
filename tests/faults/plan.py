"""Which call of a file system fails, with what, and what fails after it."""

import errno
import json
from dataclasses import asdict, dataclass, field

WRITES = (
    "create",
    "open to write",
    "write",
    "truncate",
    "allocate",
    "sync",
    "sync folder",
    "link",
    "rename",
    "remove",
    "make folder",
    "protect",
    "close",
)
READS = ("open", "read", "list", "look")
"""`look`: attributes, which every name on the way to a file is asked for."""

_NEEDS_ROOM = ("create", "write", "truncate", "allocate", "sync", "sync folder", "link", "rename", "make folder")
_ALSO = {errno.ENOSPC: _NEEDS_ROOM, errno.EDQUOT: _NEEDS_ROOM, errno.EROFS: WRITES, errno.EIO: WRITES}


@dataclass(frozen=True, slots=True)
class Plan:
    """The ``number``-th call of a kind, from 1, fails with ``code``; if it sticks, so does what else that breaks."""

    kind: str
    number: int
    code: int
    sticks: bool = False

    @property
    def then(self) -> frozenset[str]:
        """The kinds of calls that fail from then on: a full disk still takes names away, a read-only one does not."""
        if not self.sticks:
            return frozenset()
        return frozenset({self.kind, *(READS if self.kind in READS else _ALSO[self.code])})

    def __str__(self) -> str:
        return f"{self.kind} {self.number}: {errno.errorcode[self.code]}{', from then on' if self.sticks else ''}"


def codes_of(kind: str) -> tuple[int, ...]:
    """What calls of a kind fail with."""
    return (errno.EIO,) if kind in READS else (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)


@dataclass(slots=True)
class Faults:
    """Counts calls, and says which are to fail."""

    plan: Plan | None = None
    counts: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    """How many calls were made to fail."""

    def code(self, kind: str) -> int:
        """Count a call; the error that it is to fail with, or 0."""
        number = self.counts[kind] = self.counts.get(kind, 0) + 1
        plan = self.plan
        if plan is None:
            return 0
        if (kind == plan.kind and number == plan.number) or (self.failed and kind in plan.then):
            self.failed += 1
            return plan.code
        return 0


def plan_to_json(plan: Plan | None) -> str:
    """A plan in one line."""
    return json.dumps(None if plan is None else asdict(plan))


def plan_from_json(line: str) -> Plan | None:
    """The plan of one line."""
    found = json.loads(line)
    return None if found is None else Plan(**found)
