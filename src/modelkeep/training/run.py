"""``Run``: one training in a keep, through all the processes that it takes."""

import atexit
import html
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np

from modelkeep.backend import open_backend
from modelkeep.errors import ModelkeepError, StorageError, UsageError
from modelkeep.snapshot import Snapshot
from modelkeep.state import FlatState, flatten
from modelkeep.store import GRACE_SECONDS, Checkpoint, MetricRow, Retain, Store, free, to_drop
from modelkeep.training.checkpoints import Checkpoints
from modelkeep.training.fingerprint import compare_fingerprints, fingerprint
from modelkeep.training.place import default_place
from modelkeep.training.plain import decode, encode, numbers
from modelkeep.training.policy import Every, check_policies
from modelkeep.training.start import Request, Start, begin, finished_or_none, refuse_inexact
from modelkeep.training.unchanged import Held
from modelkeep.training.writer import Row, Writer
from modelkeep.values import Json

Tree = Any

# One process may open a run again (a notebook cell run twice), and the lock is of the process: who holds it is
# process-wide by nature.
_OPEN: dict[tuple[str, str], "Run"] = {}


class Run:
    """One training: its parameters and seed, its metrics and checkpoints. Made by ``keep.run(...)``.

    A run is started or continued by the same call: after a kill, run the same program again. While it is open no other
    process can open it. All methods are for one thread.

    >>> import modelkeep
    >>> with modelkeep.open("memory://docs-run").run("digits", seed=7) as run:
    ...     run.save({"weights": np.zeros(3)}, step=1, epoch=1, wait=True)
    >>> with modelkeep.open("memory://docs-run").run("digits") as run:
    ...     checkpoint, tree = run.resumed
    ...     checkpoint.step, run.seed, run.attempt
    (1, 7, 2)
    """

    def __init__(self, store: Store, request: Request) -> None:
        """Start or continue a run; see `Keep.run`."""
        self._store = store
        self._request = request
        self._retain = Retain()
        self._open()

    @classmethod
    def of(cls, run: "Run | str", *, exact: bool = True) -> "Run":
        """Return ``run`` itself, opened again if it is closed; for a name, that run in the default keep.

        The default keep is ``$MODELKEEP_KEEP``, else ``./keep``. ``exact`` counts for names only.
        """
        if isinstance(run, str):
            return cls(Store.open(open_backend(default_place())), Request(run, exact=exact))
        if not isinstance(run, Run):
            raise UsageError(f"run is a name or what keep.run(...) returns, not {type(run).__name__}")
        if run.closed:
            run._open()
        return run

    def _open(self) -> None:
        self._closed = True
        self._start: Start = begin(self._store, self._request, close_older=self._close_older)
        self._writer = Writer(self._append_metrics)
        self._request = replace(self._request, name=self._start.record.name, new=False, fork=None)
        self._donor: Snapshot | None = self._start.resumed.snapshot if self._start.resumed else None
        self._held = Held()
        self._reasons = list(self._start.not_exact)
        self._fingerprint: dict[str, Json] | None = None
        self._committed: Checkpoint | None = None
        self._live = list(self._start.live)
        # What a store remembers is for one thread.
        self._freeing = Store(self._store.backend, self._store.id) if self._store.backend.holds_back else self._store
        resumed = self._start.resumed
        self._tree: tuple[Checkpoint, Tree] | None = (resumed.checkpoint, resumed.tree) if resumed else None
        self._closed = False
        _OPEN[self._key()] = self
        atexit.register(self._close_at_exit)

    @property
    def retain(self) -> Retain:
        """Which checkpoints stay; looked at after each checkpoint. By default the last three. Raises UsageError."""
        return self._retain

    @retain.setter
    def retain(self, policy: Retain) -> None:
        check_policies(None, policy)
        self._retain = policy

    @property
    def name(self) -> str:
        """Its name in the keep; with ``new=True`` or ``fork=`` perhaps one with a number behind."""
        return self._start.record.name

    @property
    def keep(self) -> str:
        """The URL of the keep that it is in."""
        return self._store.backend.url

    @property
    def store(self) -> Store:
        """The store that it writes to."""
        return self._store

    @property
    def seed(self) -> int:
        """The seed of the run: the same in each attempt."""
        return self._start.identity.seed

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of this attempt; a copy."""
        found: dict[str, Any] = decode(encode(self._start.identity.params or {}, "params"))
        return found

    @property
    def attempt(self) -> int:
        """Which process start this is, from 1."""
        return self._start.attempt.number

    @property
    def exact(self) -> bool:
        """Whether the run ends with the bits that it would have had without interruption, as far as is known."""
        return not self._reasons

    @property
    def closed(self) -> bool:
        """Whether `close` was called; a closed run takes nothing any more."""
        return self._closed

    @property
    def resumed(self) -> tuple[Checkpoint, Tree] | None:
        """The checkpoint from which training goes on and its state; None when there is none yet.

        It is the newest that is whole. Once this object has saved, it is the last one that it saved.

        Raises:
            Damaged: bytes on disk changed after they were checked.
        """
        if not self._closed:
            self._writer.wait()
        at = self._at()
        if at is None:
            return None
        if self._tree is None:
            self._tree = (at, self._store.load(at.snapshot_id))
        return self._tree

    @property
    def finished(self) -> Json | None:
        """What `finish` was given, when the run is finished; else None, also where the mark cannot be read."""
        found = finished_or_none(self._start.record, [])
        return None if found is None else decode(found)

    def metrics(self) -> list[MetricRow]:
        """All metric rows of all attempts, in order; those that a resume threw away say ``superseded``."""
        if not self._closed:
            self._writer.wait()
        return self._start.record.metrics()

    def save(
        self,
        tree: Tree,
        *,
        step: int,
        epoch: int,
        metrics: Mapping[str, float] | None = None,
        reason: str = "policy",
        extra_meta: Mapping[str, Json] | None = None,
        wait: bool = False,
    ) -> None:
        """Make a checkpoint in the background; with ``wait=True`` it is durable when this returns.

        The tree may be changed afterwards: writable arrays are copied here. Read-only arrays are taken as they are
        (frameworks that never write to a buffer that is held give such views). While an earlier save is still being
        written, this waits for it.

        Args:
            tree: dicts, lists and tuples of numpy arrays and JSON values; see ``modelkeep.state``.
            step: steps done since the run began.
            epoch: epochs done.
            metrics: named numbers, by which ``best:NAME`` finds the checkpoint. NaN is kept, and never best.
            reason: a word that says why: ``"start"``, ``"policy"``, ``"signal"``, ``"final"``.
            extra_meta: more JSON for the snapshot's metadata.

        Raises:
            UnsupportedState: a leaf that cannot be kept bit for bit.
            NotExact: at the first save, when this process differs from the one that wrote the resumed checkpoint in
                what decides the bits; see `check_fingerprint`.
            ModelkeepError: what went wrong with an earlier save; this one is then not made.
        """
        self._must_be_open()
        if self._fingerprint is None:
            self.check_fingerprint()
        frozen = _frozen(tree)
        self._tree = None  # a second copy of a model that has moved on
        values = numbers(metrics or {})
        meta = self._meta(step=step, epoch=epoch, metrics=values, reason=reason)
        clash = sorted(meta.keys() & (extra_meta or {}).keys())
        if clash:
            raise UsageError(f"extra_meta has {', '.join(clash)}, which modelkeep records itself; take other names")
        meta |= extra_meta or {}
        self._writer.save(partial(self._commit, frozen, meta, values, self.exact))
        if wait:
            self._writer.wait()

    def checkpoints(self, every: Every | None = None, retain: Retain | None = None) -> "Checkpoints":
        """Checkpoints for a loop of one's own, which a kill, SIGTERM or Ctrl-C interrupts and the same program goes on.

        Args:
            every: how often, of `modelkeep.every`; by default each epoch and every five minutes.
            retain: which stay, of `modelkeep.retain`; by default the last three.

        Raises:
            UsageError: another thing than these.

        >>> import modelkeep as mk
        >>> def train(steps):
        ...     run = mk.open("memory://docs-loop").run("walk", seed=7)
        ...     with run, run.checkpoints(mk.every(steps=2)) as ckpt:
        ...         state, start = ckpt.restore({"at": np.zeros(2)})
        ...         for step in range(start, steps):
        ...             state["at"] += np.random.normal(size=2)
        ...             ckpt.step(step + 1, state, {"far": np.abs(state["at"]).sum()})
        ...     return start, state["at"]
        >>> _, first = train(3)
        >>> start, then = train(5)
        >>> start, bool((first != then).all())
        (3, True)
        """
        return Checkpoints(self, every, retain)

    def wait_for_room(self) -> None:
        """Return when no save is in flight. `save` waits too, but then the state is taken, and two are in memory."""
        self._must_be_open()
        self._writer.wait_for_room()

    def log(self, values: Mapping[str, float], *, step: int, epoch: int) -> None:
        """Append a row of metrics; durable within about a second, and at each checkpoint and close. Never waits.

        Args:
            values: named numbers; an array counts as one number for each item.
            step: steps done since the run began.
            epoch: the epoch that they are of, from 0.
        """
        self._must_be_open()
        self._writer.log({"step": int(step), "epoch": int(epoch), "values": numbers(values)})

    def wait(self) -> None:
        """Return when every checkpoint and metric row so far is durable.

        Raises:
            ModelkeepError: what went wrong in the background.
        """
        self._must_be_open()
        self._writer.wait()

    def finish(self, summary: Json) -> None:
        """Mark the run as finished, with a summary that `finished` gives back; durable when this returns.

        A later checkpoint takes the mark away.
        """
        self._must_be_open()
        encoded = encode(summary, "summary")
        self._writer.wait()
        self._start.record.finish(self._start.attempt, encoded)

    def check_fingerprint(self, *, exact: bool | None = None) -> None:
        """Compare what decides the bits with what the resumed checkpoint was computed on, and record it.

        Call it when the frameworks are imported and set up, before the first step; the first `save` does, if nobody
        did. ``exact=False`` goes on where they differ, and marks the run; by default as the run was opened.

        Raises:
            NotExact: naming each difference.
        """
        now = fingerprint()
        resumed = self._start.resumed
        if resumed is not None and resumed.checkpoint.reason != "fork":
            differences = compare_fingerprints(resumed.snapshot.meta.get("fingerprint"), now)
            self._refuse_or_mark(differences, self._request.exact if exact is None else exact)
        self._fingerprint = now

    def mark_not_exact(self, reasons: Sequence[str]) -> None:
        """Record, with each later checkpoint, why the run is not bit for bit what it would have been."""
        self._reasons += [reason for reason in reasons if reason not in self._reasons]

    def close(self) -> None:
        """Make everything durable and let other processes open the run. Closing twice is nothing.

        Raises:
            ModelkeepError: what went wrong in the background; the run is closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._close_at_exit)
        if _OPEN.get(self._key()) is self:
            del _OPEN[self._key()]
        try:
            self._writer.close()
            self._flush()
        finally:
            self._start.lock.close()

    def _flush(self) -> None:
        try:
            self._store.backend.flush()
        except StorageError as error:  # it is durable here, and goes up with the next start
            warnings.warn(str(error), RuntimeWarning, stacklevel=3)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except ModelkeepError as second:  # the first error is the one to see
            error.add_note(f"closing run {self.name} failed too: {second}")

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"attempt {self.attempt}"
        return f"Run({self.name!r}, {state}, seed {self.seed}, in {self.keep})"

    def _repr_html_(self) -> str:
        """A table for notebooks; all text is escaped."""
        at = self._at()
        rows = [
            ("keep", self.keep),
            ("seed", str(self.seed)),
            ("attempt", str(self.attempt)),
            ("checkpoint", f"step {at.step}, epoch {at.epoch}" if at is not None else "none yet"),
            ("exact", "yes" if self.exact else f"no: {'; '.join(self._reasons)}"),
            *((name, repr(value)) for name, value in (self._start.identity.params or {}).items()),
        ]
        body = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>" for name, text in rows)
        return f"<table><caption>run {html.escape(self.name)}</caption>{body}</table>"

    # In the background

    def _commit(self, state: FlatState, meta: dict[str, Any], metrics: dict[str, float], exact: bool) -> None:
        """Snapshot, checkpoint, retention: in this order, so that a kill between two of them loses nothing."""
        donor, backend = self._donor, self._store.backend
        # Where nobody can be asked whether it lives, a collection goes by the age of what no record names.
        not_after = None if backend.exclusive_locks else backend.now() + GRACE_SECONDS / 2
        meta["parents"] = [donor.id] if donor is not None else []
        same = self._held.same(state.arrays)
        snapshot = self._store.save(state, meta=meta, writer=self._start.token, donor=donor, unchanged=same)
        self._committed = self._start.record.commit_checkpoint(
            self._start.attempt,
            snapshot,
            step=meta["step"],
            epoch=meta["epoch"],
            metrics=metrics,
            reason=meta["reason"],
            exact=exact,
            not_after=not_after,
        )
        self._live.append(self._committed)
        # Together: what the next save finds unchanged it takes from its donor.
        self._held.hold(state.arrays, donor, snapshot)
        self._donor = snapshot
        self._drop_old()

    def _append_metrics(self, rows: Sequence[Row]) -> None:
        self._start.record.append_metrics(self._start.attempt, rows)

    def _drop_old(self) -> None:
        numbers_to_drop = to_drop(self._live, self.retain)
        if not numbers_to_drop:
            return
        record = self._start.record
        record.drop(numbers_to_drop)
        dropped = [one for one in self._live if one.number in numbers_to_drop]
        self._store.backend.afterwards(lambda: free(self._freeing, dropped))
        self._live = [one for one in self._live if one.number not in numbers_to_drop]

    # How it is put together

    def _key(self) -> tuple[str, str]:
        return self._store.id, self.name

    def _at(self) -> Checkpoint | None:
        """The checkpoint that training is at, on disk."""
        return self._committed or (self._start.resumed.checkpoint if self._start.resumed else None)

    def _must_be_open(self) -> None:
        if self._closed:
            raise UsageError(f"run {self.name} is closed; open it again with keep.run({self.name!r})")

    def _meta(self, *, step: int, epoch: int, metrics: Mapping[str, float], reason: str) -> dict[str, Json]:
        return {
            "kind": "checkpoint",
            "run": self.name,
            "attempt": self.attempt,
            "step": int(step),
            "epoch": int(epoch),
            "metrics": encode(metrics, "metrics"),
            "reason": reason,
            "seed": self.seed,
            "params": encode(self._start.identity.params, "params"),
            "fingerprint": {**(self._fingerprint or {})},
            "not_exact": [*self._reasons],
            "parents": [],
        }

    def _refuse_or_mark(self, differences: list[str], exact: bool) -> None:
        if not differences:
            return
        refuse_inexact(self.name, differences, exact=exact)
        self.mark_not_exact(differences)

    @staticmethod
    def _close_older(store_id: str, name: str) -> None:
        """The same run in this process: a notebook cell that is run again."""
        older = _OPEN.get((store_id, name))
        if older is not None:
            older.close()

    def _forget(self) -> None:
        """In a forked child: this is the parent's run. The copy of its lock would outlive the parent's death."""
        self._closed = True
        atexit.unregister(self._close_at_exit)
        self._start.lock.close()

    def _close_at_exit(self) -> None:
        self.close()


def is_open(store: Store, name: str) -> bool:
    """Whether this process has the run open."""
    return (store.id, name) in _OPEN


def wait_for_saves(store: Store) -> None:
    """Return when no run that this process has open is being saved."""
    for run in list(_OPEN.values()):
        if run.store.id == store.id:
            run.wait_for_room()


def _frozen(tree: Tree) -> FlatState:
    """The state as it is now: arrays that somebody may write to are copied."""
    flat = flatten(tree)
    arrays = {path: np.array(array) if array.flags.writeable else array for path, array in flat.arrays.items()}
    return FlatState(flat.structure, arrays)


def _forget_all() -> None:
    for run in list(_OPEN.values()):
        run._forget()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
