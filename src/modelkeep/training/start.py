"""The start of an attempt: which run it is, whether it may go on, and from which checkpoint."""

import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from modelkeep.errors import Damaged, NotExact, RunLocked, UsageError
from modelkeep.snapshot import Snapshot
from modelkeep.store import Attempt, Checkpoint, RunRecord, Store, clear_leftovers, newest_good
from modelkeep.training import environment
from modelkeep.training.adoption.kinds import is_adoption
from modelkeep.training.fingerprint import FIXED, compare_fingerprints, fingerprint
from modelkeep.training.parameters import canonical_params, check_params
from modelkeep.training.plain import decode, encode
from modelkeep.training.seeding import check_seed, draw_seed, seed_generators
from modelkeep.values import Json, Ref, SnapshotId, check_name


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks of `Keep.run`."""

    name: str
    params: Mapping[str, object] | None = None
    seed: int | None = None
    new: bool = False
    fork: str | None = None
    exact: bool = True
    capture: bool = True


@dataclass(frozen=True, slots=True)
class Resumed:
    """A checkpoint that was read and checked."""

    checkpoint: Checkpoint
    snapshot: Snapshot
    tree: Any


@dataclass(frozen=True, slots=True)
class Identity:
    """What stays the same in all attempts of a run."""

    seed: int
    params: dict[str, Any] | None
    fork: dict[str, Json] | None
    """``ref`` and ``snapshot`` of the checkpoint that the run began with."""


@dataclass(frozen=True, slots=True)
class Start:
    """What an attempt begins with."""

    record: RunRecord
    attempt: Attempt
    token: str
    """The writer's name in the keep: 16 hexadecimal digits, new for each attempt."""
    identity: Identity
    resumed: Resumed | None
    live: tuple[Checkpoint, ...]
    """The checkpoints that are whole as far as is known, for retention to count."""
    not_exact: tuple[str, ...]
    lock: ExitStack


def begin(store: Store, request: Request, *, close_older: Callable[[str, str], None]) -> Start:
    """Start an attempt of the run that ``request`` names, and seed the random generators of this process.

    ``close_older`` is told the keep and the run before the lock is taken, so that an older holder in this process
    lets go. The attempt is durable on return; when this raises, none was started.

    Raises:
        InvalidName, UsageError, ParamsChanged, NotExact, NotFound, RunLocked, Damaged, Fenced: see `Keep.run`.
    """
    check_name(request.name)
    request = replace(
        request,
        params=canonical_params(request.params),
        seed=None if request.seed is None else check_seed(request.seed),
    )
    while True:
        record = _choose(store, request)
        close_older(store.id, record.name)
        with ExitStack() as lock:
            lock.enter_context(store.backend.lock(record.lock_key))
            # Between the look and the lock another process may have taken the name.
            if _choose(store, request).name == record.name:
                return _begin(store, record, request, lock)


def _choose(store: Store, request: Request) -> RunRecord:
    """The run to go on with, or the first name that is free: NAME, NAME-2, NAME-3, …"""
    for number in count(1):
        record = store.run(request.name if number == 1 else f"{request.name}-{number}")
        if not record.exists():
            return record
        if not request.new and (request.fork is None or _is_fork_of(record, request.fork)):
            return record
    raise AssertionError("count() does not end")


def _is_fork_of(record: RunRecord, ref: str) -> bool:
    """Whether a run was begun by the same ``fork=``: the same program that runs again after a kill."""
    forks = [attempt.info.get("fork") for attempt in _readable_attempts(record, [])]
    if not isinstance(forks[0], dict):
        return False
    then, now = Ref.parse(str(forks[0].get("ref"))), Ref.parse(ref)
    return replace(then, kind=then.kind or "run") == replace(now, kind=now.kind or "run")


def _readable_attempts(record: RunRecord, damaged: list[str]) -> list[Attempt]:
    """The attempts whose records are whole; each holds the seed, the parameters and the fork of the run.

    Raises:
        Damaged: the run was started, and none is whole.
    """
    last: list[Exception] = []

    def on_damage(key: str, error: Exception) -> None:
        damaged.append(f"{key}: {error}")
        last.append(error)

    attempts = record.attempts(on_damage=on_damage)
    if last and not attempts:
        raise last[0]
    return attempts


_LOOKS = 5
"""How often the newest checkpoint is looked for while somebody else makes newer ones."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """An attempt that was begun, and what it goes on from."""

    attempt: Attempt
    token: str
    identity: Identity
    resumed: Resumed | None
    not_exact: Sequence[str]
    damaged: list[str]


def _begin(store: Store, record: RunRecord, request: Request, lock: ExitStack) -> Start:
    while True:
        newest = record.newest_number()
        claim = _claim(store, record, request)
        if store.backend.exclusive_locks or record.newest_number() == newest:
            break
        # Who had the run until now has saved between our look and our claim, which fences it.
    resumed = claim.resumed
    if resumed is not None and resumed.checkpoint.number == 0:
        resumed = _adopt(store, record, claim.attempt, resumed)
    _tell(record, claim.damaged, resumed)
    seed_generators(claim.identity.seed)
    return Start(
        record=record,
        attempt=claim.attempt,
        token=claim.token,
        identity=claim.identity,
        resumed=resumed,
        live=_live(record, resumed),
        not_exact=tuple(claim.not_exact),
        lock=lock.pop_all(),
    )


def _claim(store: Store, record: RunRecord, request: Request) -> _Claim:
    """Begin an attempt; whoever has an older one is told so when it saves."""
    damaged: list[str] = []
    attempts = _readable_attempts(record, damaged)
    identity = _identity(store, record, request, attempts)
    resumed = _resume(store, record, identity, damaged)
    now = fingerprint()
    is_finished = finished_or_none(record, damaged) is not None
    not_exact = _check_machine(record, resumed, attempts, now, is_finished=is_finished, exact=request.exact)
    clear_leftovers(store, record)
    token = secrets.token_hex(8)
    info: dict[str, Json] = {
        "modelkeep": environment.version(),
        "seed": identity.seed,
        "params": encode(identity.params, "params"),
        "fork": identity.fork,
        "writer": token,
        "resumed_from": _resumed_from(resumed),
        "passed_over": [*damaged],
        "exact": request.exact,
        "not_exact": [*not_exact],
        "fingerprint": now,
        "environment": environment.capture() if request.capture else None,
    }
    return _Claim(record.start_attempt(info), token, identity, resumed, not_exact, damaged)


def _identity(store: Store, record: RunRecord, request: Request, attempts: Sequence[Attempt]) -> Identity:
    """Seed and parameters: as recorded, as given, or of the checkpoint that is forked; then drawn."""
    given = request.params
    attempts = [one for one in attempts if not is_adoption(one)]  # nobody told these parameters, and nothing was drawn
    if attempts:
        first, last = attempts[0].info, attempts[-1].info
        seed, params = first["seed"], decode(first["params"])
        assert isinstance(seed, int)
        old: dict[str, Any] = dict(params or {}) if given is not None else {}
        new: dict[str, Any] = dict(given or {})
        if request.seed is not None and request.seed != seed:
            old["seed="], new["seed="] = seed, request.seed
        check_params(record.name, old, new)
        fork = first.get("fork")
        assert fork is None or isinstance(fork, dict)
        return Identity(seed, dict(given) if given is not None else decode(last["params"]), fork)
    if request.fork is None:
        return Identity(draw_seed() if request.seed is None else request.seed, _dict(given), None)
    ref = Ref.parse(request.fork)
    if ref.keep is not None:
        raise UsageError(f"fork={str(ref)!r} names another keep; fork takes a checkpoint of this one")
    parent = store.resolve(ref)
    # The order of the data follows from the seed: with another one the rest of an epoch would not be its rest.
    inherited = parent.meta.get("seed")
    seed = request.seed if request.seed is not None else inherited if isinstance(inherited, int) else draw_seed()
    params = _dict(given) if given is not None else decode(parent.meta.get("params"))
    return Identity(seed, params, {"ref": str(ref), "snapshot": parent.id})


def _dict(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if params is None else dict(params)


def _resume(store: Store, record: RunRecord, identity: Identity, damaged: list[str]) -> Resumed | None:
    """The newest checkpoint that is whole; for a fork without one, that of the parent, with the number 0."""
    found = _newest_good(store, record, damaged)
    if found is not None:
        record.settle(found[0].number)
        return Resumed(*found)
    if identity.fork is None:
        return None
    snapshot = store.snapshot(SnapshotId(str(identity.fork["snapshot"])))
    return Resumed(_of_parent(store, snapshot), snapshot, store.load(snapshot))


def _newest_good(store: Store, record: RunRecord, damaged: list[str]) -> tuple[Checkpoint, Snapshot, Any] | None:
    """Looked for again where somebody else still saves, and lets go of what we were about to read.

    Raises:
        RunLocked: each time there was a newer one.
    """
    passed_over: list[str] = []
    for _ in range(_LOOKS):
        newest = record.newest_number()
        passed_over.clear()
        try:
            found = newest_good(store, record, lambda what, error: passed_over.append(f"{what}: {error}"))
        except Damaged:
            if record.newest_number() == newest:
                raise
            continue
        if not passed_over or record.newest_number() == newest:
            damaged += passed_over
            return found
    raise RunLocked(
        f"run {record.name}: another process saves to it, and lets go of its checkpoints faster than they can be read "
        "here; end that process first"
    )


def _of_parent(store: Store, snapshot: Snapshot) -> Checkpoint:
    step, epoch = snapshot.meta.get("step"), snapshot.meta.get("epoch")
    metrics = decode(snapshot.meta.get("metrics"))
    return Checkpoint(
        number=0,
        snapshot_id=snapshot.id,
        step=step if isinstance(step, int) else 0,
        epoch=epoch if isinstance(epoch, int) else 0,
        metrics=metrics if isinstance(metrics, dict) else {},
        time=store.backend.now(),
        attempt=1,
        reason="fork",
        exact=not snapshot.meta.get("not_exact"),
    )


def _adopt(store: Store, record: RunRecord, attempt: Attempt, resumed: Resumed) -> Resumed:
    """Make the parent's checkpoint the fork's own first one: whatever becomes of the parent, its state stays.

    It is saved anew rather than named: the parent may let its record go at this very moment. Its pieces are reused.
    """
    parent, token = resumed.checkpoint, str(attempt.info["writer"])
    meta = {**resumed.snapshot.meta, "run": record.name, "attempt": attempt.number, "reason": parent.reason}
    meta["parents"] = [resumed.snapshot.id]
    snapshot = store.save(resumed.tree, meta=meta, writer=token, donor=resumed.snapshot)
    checkpoint = record.commit_checkpoint(
        attempt,
        snapshot,
        step=parent.step,
        epoch=parent.epoch,
        metrics=parent.metrics,
        reason=parent.reason,
        exact=parent.exact,
    )
    return Resumed(checkpoint, snapshot, resumed.tree)


def _check_machine(
    record: RunRecord,
    resumed: Resumed | None,
    attempts: Sequence[Attempt],
    now: dict[str, Json],
    *,
    is_finished: bool,
    exact: bool,
) -> list[str]:
    """Why the run is not bit for bit what it would have been: before now, and on this machine.

    What a script may still set is compared later, by `Run.check_fingerprint`. A run that is finished computes nothing
    any more, and what goes on from a fork never was the parent's future.
    """
    if resumed is None:
        return []
    meta = resumed.snapshot.meta
    recorded = meta.get("not_exact")
    reasons = [str(reason) for reason in recorded] if isinstance(recorded, list) else []
    if resumed.checkpoint.reason == "fork" or is_finished:
        return reasons
    differences = compare_fingerprints(meta.get("fingerprint"), now, FIXED)
    # A variable may be set between keep.run() and the first step; one that was set before both times is not.
    then = next((one.info.get("fingerprint") for one in attempts if one.number == resumed.checkpoint.attempt), None)
    at_start = compare_fingerprints(then, now, ["variables"])
    differences += [one for one in compare_fingerprints(meta.get("fingerprint"), now, ["variables"]) if one in at_start]
    refuse_inexact(record.name, differences, exact=exact)
    return reasons + [difference for difference in differences if difference not in reasons]


def finished_or_none(record: RunRecord, damaged: list[str]) -> Json | None:
    """The summary of a finished run. A mark that cannot be read is added to ``damaged``: the end is made again."""
    try:
        return record.finished()
    except Damaged as error:
        damaged.append(str(error))
        return None


def refuse_inexact(name: str, differences: Sequence[str], *, exact: bool) -> None:
    """Refuse to go on where the bits would differ, or with ``exact=False`` say it in a warning.

    Raises:
        NotExact: naming each difference.
    """
    if not differences:
        return
    text = "\n".join(f"  - {difference}" for difference in differences)
    if exact:
        raise NotExact(
            f"run {name}: what decides the bits has changed since the checkpoint was made:\n{text}\nset it as it "
            "was, or pass exact=False to go on anyway (the run is marked), or new=True for a fresh run beside it"
        )
    warnings.warn(f"run {name} goes on, but not bit for bit:\n{text}", RuntimeWarning, stacklevel=2)


def _resumed_from(resumed: Resumed | None) -> dict[str, Json] | None:
    if resumed is None:
        return None
    checkpoint = resumed.checkpoint
    return {
        "checkpoint": checkpoint.number,
        "attempt": checkpoint.attempt,
        "snapshot": checkpoint.snapshot_id,
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
    }


def _tell(record: RunRecord, damaged: Sequence[str], resumed: Resumed | None) -> None:
    """Say which checkpoints were passed over: the training goes on, but somebody should look at the disk."""
    if not damaged or resumed is None:
        return
    text = "\n".join(f"  - {one}" for one in damaged)
    warnings.warn(
        f"run {record.name} goes on from step {resumed.checkpoint.step} (epoch {resumed.checkpoint.epoch}), and "
        f"this is damaged:\n{text}\n`modelkeep verify` names every damage in the keep",
        RuntimeWarning,
        stacklevel=2,
    )


def _leave_out(key: str, error: Exception) -> None:
    """It was told when the run looked for its newest checkpoint."""


def _live(record: RunRecord, resumed: Resumed | None) -> tuple[Checkpoint, ...]:
    """Damaged checkpoints are left out, so that they cannot count as the last ones that stay."""
    if resumed is None:
        return ()
    checkpoints = record.iterate_checkpoints(on_damage=_leave_out)
    return tuple(one for one in checkpoints if one.number <= resumed.checkpoint.number)
