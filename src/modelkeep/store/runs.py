"""What a run leaves in the keep: attempts, metrics, checkpoints, tombstones and the mark of its end.

Objects are only ever created. A checkpoint's number is one more than the newest and is never used twice; since it is
created if absent, of two writers that believe they own the run one loses, and is told so (`Fenced`).
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from modelkeep.backend import Backend
from modelkeep.errors import AlreadyExists, Damaged, Fenced, ModelkeepError, NotFound, StorageError, UsageError
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.canonical import seal, unseal
from modelkeep.store.documents import (
    DAMAGE,
    OnDamage,
    decode_metrics,
    encode_metrics,
    float_of,
    int_of,
    list_of,
    making_sense,
    mapping_of,
    must_be,
    numbers_in,
    read_ahead,
    read_document,
    snapshot_id_of,
)
from modelkeep.store.numbering import newest_first, number_of, oldest_first
from modelkeep.values import Json, SnapshotId, check_name

_TRIES = 3
"""How often a number is looked for that an older attempt, which does not know yet that it is one, has taken."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process start of a run."""

    number: int
    """From 1."""
    time: float
    """When it began: seconds since the epoch, by the store's clock."""
    info: Mapping[str, Json]
    """What was recorded at its start: environment, parameters, seed, writer, ``resumed_from``."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A snapshot of a run, and what was known of it when it was made."""

    number: int
    """From 1, in the order of commits; never used twice."""
    snapshot_id: SnapshotId
    step: int
    epoch: int
    metrics: Mapping[str, float]
    time: float
    """Seconds since the epoch, by the store's clock."""
    attempt: int
    reason: str
    exact: bool
    """False when something had made the run other than bit for bit."""
    dropped: bool = False
    """True when retention has let its snapshot go; the record of it stays."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """Metrics of one moment."""

    attempt: int
    step: int
    epoch: int
    time: float
    values: Mapping[str, float]
    superseded: bool
    """True when a later attempt resumed from before this row, and computed it again."""


@dataclass(slots=True)
class RunRecord:
    """One run's objects in a keep.

    >>> from modelkeep.backend import MemoryBackend
    >>> record = RunRecord(MemoryBackend("docs-runs"), "digits")
    >>> record.exists()
    False
    >>> record.start_attempt({"seed": 3}).number
    1
    """

    backend: Backend
    name: str
    _segments: int = field(default=0, init=False)
    _tombstones: dict[str, frozenset[int]] = field(default_factory=dict, init=False, repr=False)
    """What each tombstone says, by key: they never change, and a long run has thousands."""
    _settled: str = field(default="", init=False, repr=False)
    """The newest tombstone that is durable, as far as we know."""
    _named: dict[int, SnapshotId] = field(default_factory=dict, init=False, repr=False)
    """The snapshot of each checkpoint that was read once, by number."""

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def prefix(self) -> str:
        """The key below which everything of the run lies."""
        return f"runs/{self.name}"

    @property
    def lock_key(self) -> str:
        """The key of the lock that its one writer holds."""
        return f"{self.prefix}/lock"

    def exists(self) -> bool:
        """Whether the run was ever started."""
        return next(self._numbers("attempts"), None) is not None

    # Attempts

    def attempts(self, *, on_damage: OnDamage | None = None) -> list[Attempt]:
        """All attempts, the first one first.

        ``on_damage(key, error)`` is told of one whose record cannot be read, which is then left out; without it the
        error is raised.

        Raises:
            Damaged: a record cannot be read.
        """
        found = []
        for number in sorted(self._numbers("attempts")):
            try:
                found.append(self._attempt(number))
            except DAMAGE as error:
                if on_damage is None:
                    raise
                on_damage(self._attempt_key(number), error)
        return found

    def start_attempt(self, info: Mapping[str, Json]) -> Attempt:
        """Begin the next attempt; durable on return.

        Raises:
            Fenced: another process has begun one at the same moment.
        """
        number = self._newest("attempts") + 1
        attempt = Attempt(number, self.backend.now(), dict(info))
        document: dict[str, Json] = {"number": number, "time": attempt.time, "info": {**attempt.info}}
        try:
            self.backend.create(self._attempt_key(number), seal(document))
        except AlreadyExists:
            raise Fenced(
                f"run {self.name}: another process has begun attempt {number} just now; end one of the two"
            ) from None
        self._segments = 0
        return attempt

    def _attempt(self, number: int) -> Attempt:
        key = self._attempt_key(number)
        document = self._read(key)
        with making_sense(key, "the start of an attempt"):
            must_be(number, document["number"])
            return Attempt(number, float_of(document["time"]), mapping_of(document["info"]))

    # Metrics

    def append_metrics(self, attempt: Attempt, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows of ``step``, ``epoch``, ``values`` and perhaps ``time``; durable on return.

        Raises:
            Fenced: another process writes the metrics of this attempt.
        """
        if not rows:
            return
        self._segments += 1
        now = self.backend.now()
        documents: list[Json] = [
            {
                "step": int(row["step"]),
                "epoch": int(row["epoch"]),
                "time": float(row.get("time", now)),
                "values": encode_metrics(row["values"]),
            }
            for row in rows
        ]
        key = f"{self._folder(attempt.number)}/metrics/{oldest_first(self._segments)}.json"
        try:
            self.backend.create(key, seal({"rows": documents}))
        except AlreadyExists:
            raise Fenced(f"{key} was written by another process; end one of the two") from None

    def metrics(self, *, on_damage: OnDamage | None = None) -> list[MetricRow]:
        """The rows of all attempts in the order in which they were computed.

        ``on_damage(key, error)`` is told of a segment of rows, or the start of an attempt, that cannot be read; the
        other rows are returned, and what the attempt superseded is not marked. Without it the error is raised.

        Raises:
            Damaged: a record cannot be read.
        """
        attempts = self.attempts(on_damage=on_damage)
        rows: list[MetricRow] = []
        for number in sorted(self._numbers("attempts")):
            bound = min((_resumed_step(later) for later in attempts if later.number > number), default=None)
            rows += self._rows_of(number, bound, on_damage)
        return rows

    def _rows_of(self, attempt: int, bound: int | None, on_damage: OnDamage | None) -> Iterator[MetricRow]:
        listed = (entry.key for entry in self.backend.list(f"{self._folder(attempt)}/metrics"))
        segments = (key for key in listed if number_of(key.rpartition("/")[2].removesuffix(".json")) is not None)
        for key, found in read_ahead(self.backend, segments, self._read):
            try:
                document = found()
                with making_sense(key, "a segment of metrics"):
                    rows = [_row_of(mapping_of(row), attempt, bound) for row in list_of(document["rows"])]
            except DAMAGE as error:
                if on_damage is None:
                    raise
                on_damage(key, error)
            else:
                yield from rows

    # Checkpoints

    def commit_checkpoint(
        self,
        attempt: Attempt,
        snapshot: Snapshot,
        *,
        step: int,
        epoch: int,
        metrics: Mapping[str, float] | None = None,
        reason: str = "policy",
        exact: bool = True,
        not_after: float | None = None,
    ) -> Checkpoint:
        """Name a durable snapshot as the run's newest checkpoint; durable on return.

        ``not_after``: the time, by the clock of the storage, from which on a collection may have taken the snapshot.

        Raises:
            Fenced: a newer attempt of the run exists, or other processes take one number after the other.
            StorageError: it is too late.
        """
        for _ in range(_TRIES):
            number = self._newest("checkpoints") + 1
            # After the number was found: whatever a newer attempt commits then has this number too, or a greater one.
            self._must_be_newest(attempt)
            checkpoint = Checkpoint(
                number=number,
                snapshot_id=snapshot.id,
                step=step,
                epoch=epoch,
                metrics=dict(metrics or {}),
                time=self.backend.now(),
                attempt=attempt.number,
                reason=reason,
                exact=exact,
            )
            if not_after is not None and checkpoint.time > not_after:
                raise StorageError(
                    f"run {self.name}: the save of step {step} has taken so long that a collection may have removed "
                    "what it wrote (the process stood still?); the checkpoint before is intact, and a next save begins "
                    "anew"
                )
            try:
                self.backend.create(self._checkpoint_key(number), seal(_checkpoint_json(checkpoint)))
            except AlreadyExists:
                continue  # by an older attempt that does not know yet that it has lost the run
            self._named[number] = snapshot.id
            self._must_be_newest(attempt)
            return checkpoint
        raise Fenced(f"run {self.name}: another process writes its checkpoints; this one has lost the run")

    def settle(self, number: int) -> None:
        """Make durable that a checkpoint is there: who made it may have been killed before, and we count on it."""
        self.backend.settle(self._checkpoint_key(number))

    def checkpoints(self, *, dropped: bool = False) -> list[Checkpoint]:
        """The checkpoints, newest first; with ``dropped=True`` also those whose snapshots are gone. Raises Damaged."""
        return list(self.iterate_checkpoints(dropped=dropped))

    def iterate_checkpoints(
        self,
        *,
        dropped: bool = False,
        on_damage: OnDamage | None = None,
        damage: tuple[type[ModelkeepError], ...] = DAMAGE,
    ) -> Iterator[Checkpoint]:
        """Yield the checkpoints newest first, reading each as it is asked for.

        ``on_damage(key, error)`` is told of a record that cannot be read, which is then left out; without it the
        error is raised. What a damaged tombstone dropped is unknown, and comes as if it were there. ``damage``: the
        errors that are told; others are raised.
        """
        gone = self._dropped(on_damage, damage)
        wanted = (number for number in self._numbers("checkpoints") if dropped or number not in gone)
        read = partial(self._checkpoint, gone=gone)
        for number, found in read_ahead(self.backend, wanted, read):
            key = self._checkpoint_key(number)
            try:
                checkpoint = found()
            except damage as error:
                if on_damage is None:
                    raise
                on_damage(key, error)
            else:
                yield checkpoint

    def newest_number(self) -> int:
        """The number of the newest checkpoint, which is never let go; 0 for none."""
        return self._newest("checkpoints")

    def count_checkpoints(self) -> int:
        """How many checkpoints were not let go, by their names. Raises Damaged."""
        return len(set(self._numbers("checkpoints")) - self.dropped())

    def drop(self, numbers: Sequence[int]) -> None:
        """Let checkpoints go; their records and numbers stay. Durable on return.

        Raises:
            UsageError: the newest one is among them.
        """
        while True:
            tombstones = list(self._numbers("dropped"))
            gone = {one for number in tombstones for one in self._tombstone(self._tombstone_key(number))}
            wanted = sorted(set(numbers) - gone)
            newest = max(tombstones, default=0)
            if not wanted:
                self._settle_tombstone(newest)
                return
            if self._newest("checkpoints") in wanted:
                raise UsageError(f"run {self.name}: checkpoint {wanted[-1]} is the newest, from which the run goes on")
            self._settle_tombstone(newest)
            key = self._tombstone_key(newest + 1)
            try:
                self.backend.create(key, seal({"numbers": list(wanted)}))
            except AlreadyExists:
                continue  # where there are no locks a process that lost the run may let go at the same moment
            self._tombstones[key] = frozenset(wanted)
            self._settled = key
            return

    def settle_dropped(self) -> None:
        """Make durable what was let go: who did may have been killed before. What is then deleted stays let go.

        One look suffices: whoever makes a tombstone has settled the one before.
        """
        self._settle_tombstone(self._newest("dropped"))

    def _settle_tombstone(self, newest: int) -> None:
        if newest and self._settled != (key := self._tombstone_key(newest)):
            self.backend.settle(key)
            self._settled = key

    def dropped(self) -> set[int]:
        """The numbers of the checkpoints that were let go. Raises Damaged."""
        return self._dropped(None, ())

    def named_snapshots(self) -> set[SnapshotId]:
        """The snapshots of the checkpoints that were not let go; each record is read once. Raises Damaged."""
        live = set(self._numbers("checkpoints")) - self.dropped()
        read = partial(self._checkpoint, gone=frozenset())
        for number, found in read_ahead(self.backend, live - self._named.keys(), read):
            self._named[number] = found().snapshot_id
        return {self._named[number] for number in live}

    def _dropped(self, on_damage: OnDamage | None, damage: tuple[type[ModelkeepError], ...]) -> set[int]:
        gone: set[int] = set()
        for number in self._numbers("dropped"):
            key = self._tombstone_key(number)
            try:
                gone |= self._tombstone(key)
            except damage as error:
                if on_damage is None:
                    raise
                on_damage(key, error)
        return gone

    def _tombstone(self, key: str) -> frozenset[int]:
        if key not in self._tombstones:
            document = self._read(key)
            with making_sense(key, "a list of dropped checkpoints"):
                self._tombstones[key] = frozenset(int_of(number) for number in list_of(document["numbers"]))
        return self._tombstones[key]

    def _checkpoint(self, number: int, *, gone: AbstractSet[int]) -> Checkpoint:
        key = self._checkpoint_key(number)
        document = self._read(key)
        with making_sense(key, "the record of a checkpoint"):
            must_be(number, document["number"])
            return _checkpoint_of(document, dropped=number in gone)

    # The end

    def finish(self, attempt: Attempt, summary: Json) -> None:
        """Mark the run as finished at its newest checkpoint; durable on return. Raises Fenced."""
        self._must_be_newest(attempt)
        number = self._newest("finished") + 1
        newest = self._newest("checkpoints")
        document: dict[str, Json] = {"attempt": attempt.number, "checkpoint": newest, "summary": summary}
        self.backend.create(f"{self.prefix}/finished/{newest_first(number)}.json", seal(document))

    def finished(self) -> Json | None:
        """The summary of the last `finish`; None when there was none, or a later checkpoint goes on. Raises Damaged."""
        number = self._newest("finished")
        if not number:
            return None
        key = f"{self.prefix}/finished/{newest_first(number)}.json"
        document = self._read(key)
        newest = self._newest("checkpoints")
        with making_sense(key, "the mark of a run's end"):
            return document["summary"] if int_of(document["checkpoint"]) == newest else None

    # How it lies in the keep

    def _must_be_newest(self, attempt: Attempt) -> None:
        """Attempts are numbered without gaps, so that one look tells; a listing would walk all metrics too."""
        newer = attempt.number + 1
        if self._has_begun(newer):
            raise Fenced(
                f"run {self.name}: attempt {newer} has begun since attempt {attempt.number}; the newer owns the run"
            )

    def _has_begun(self, attempt: int) -> bool:
        try:
            self.backend.size(self._attempt_key(attempt))
        except NotFound:
            return False
        except Damaged:  # it is no file any more, and it was one once
            return True
        return True

    def _folder(self, attempt: int) -> str:
        return f"{self.prefix}/attempts/{newest_first(attempt)}"

    def _attempt_key(self, number: int) -> str:
        return f"{self._folder(number)}/start.json"

    def _tombstone_key(self, number: int) -> str:
        return f"{self.prefix}/dropped/{newest_first(number)}.json"

    def _checkpoint_key(self, number: int) -> str:
        return f"{self.prefix}/checkpoints/{newest_first(number)}.json"

    def _newest(self, kind: str) -> int:
        """The greatest number of ``kind``, 0 when there is none."""
        return next(self._numbers(kind), 0)

    def _numbers(self, kind: str) -> Iterator[int]:
        """The numbers of the objects of ``kind``, newest first; other files are passed over."""
        if kind == "attempts":  # by their folders: a listing would walk all metrics
            numbers = (number_of(name) for name in self.backend.folders(f"{self.prefix}/attempts"))
            yield from (number for number in numbers if number is not None and self._has_begun(number))
            return
        yield from numbers_in(self.backend, f"{self.prefix}/{kind}")

    def _read(self, key: str) -> dict[str, Json]:
        return unseal(read_document(self.backend, key), key)


def _resumed_step(attempt: Attempt) -> int:
    """The step from which an attempt went on; the run's beginning where it found no checkpoint."""
    resumed = attempt.info.get("resumed_from")
    step = resumed.get("step") if isinstance(resumed, Mapping) else None
    return step if isinstance(step, int) else -1


def _row_of(row: Mapping[str, Json], attempt: int, bound: int | None) -> MetricRow:
    step = int_of(row["step"])
    return MetricRow(
        attempt=attempt,
        step=step,
        epoch=int_of(row["epoch"]),
        time=float_of(row["time"]),
        values=decode_metrics(row["values"]),
        superseded=bound is not None and step > bound,
    )


def _checkpoint_json(checkpoint: Checkpoint) -> dict[str, Json]:
    return {
        "number": checkpoint.number,
        "snapshot": checkpoint.snapshot_id,
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "metrics": encode_metrics(checkpoint.metrics),
        "time": checkpoint.time,
        "attempt": checkpoint.attempt,
        "reason": checkpoint.reason,
        "exact": checkpoint.exact,
    }


def _checkpoint_of(document: Mapping[str, Json], *, dropped: bool) -> Checkpoint:
    return Checkpoint(
        number=int_of(document["number"]),
        snapshot_id=snapshot_id_of(document["snapshot"]),
        step=int_of(document["step"]),
        epoch=int_of(document["epoch"]),
        metrics=decode_metrics(document["metrics"]),
        time=float_of(document["time"]),
        attempt=int_of(document["attempt"]),
        reason=str(document["reason"]),
        exact=document["exact"] is True,
        dropped=dropped,
    )
