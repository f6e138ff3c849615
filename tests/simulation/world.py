"""A keep, the processes that use it, and what was promised to them: the verbs of the random programs."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from modelkeep import Keep
from modelkeep.errors import Conflict, Damaged, Fenced, ModelkeepError, NotFound, RunLocked, StorageError
from modelkeep.store import Best, Retain
from modelkeep.training.run import Run

from .facts import Facts, Rule, RunFacts, is_tree, loss, tree
from .kernel import Gone, Process
from .places import Place

RULES = (Rule(last=1), Rule(last=2), Rule(last=3, every=6), Rule(last=1, best=True), Rule(last=2, every=4, best=True))


class Broken(AssertionError):
    """A promise was broken."""


@dataclass(eq=False)
class Open:
    """A run that a process has open, and what it waits to hear of."""

    run: Run
    facts: RunFacts
    pending: set[int] = field(default_factory=set)
    rows: set[int] = field(default_factory=set)

    def settled(self) -> None:
        """Everything so far was acknowledged."""
        self.facts.acknowledged(self.pending)
        self.facts.rows |= self.rows
        self.pending, self.rows = set(), set()


@dataclass(eq=False)
class Slot:
    """A process that uses the keep, and the one that takes its place when it dies."""

    process: Process
    keep: Keep | None = None
    opened: dict[str, Open] = field(default_factory=dict)


class World:
    """The verbs. Each returns whether it did what it was asked for; a promise that does not hold is `Broken`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.facts = Facts()
        self.slots = [Slot(place.spawn(f"process {number}")) for number in range(place.slots)]
        self.counts: Counter[str] = Counter()
        self._busy: set[Slot] = set()

    # Verbs

    def save_state(self, slot: Slot, serial: int) -> bool:
        """Save a state that is named by its id; equal ones are one."""

        def do(keep: Keep) -> None:
            snapshot = keep.save_state(tree(serial), meta={"serial": serial})
            self.facts.made = True
            self.facts.states[snapshot.id] = serial
            self._must_be(keep.load_state(snapshot.id), serial, f"state {snapshot.id}")

        return self._do(slot, "save_state", do)

    def start(self, slot: Slot, name: str, rule: Rule) -> bool:
        """Start or continue a run."""
        facts = self.facts.runs.setdefault(name, RunFacts(name, rule))
        return self._do(slot, "start", lambda keep: self._start(slot, keep, facts), (RunLocked, Fenced))

    def fork(self, slot: Slot, parent: str, step: int, rule: Rule) -> bool:
        """Start or continue the fork of a checkpoint, which may be let go at this moment if it has no fork yet."""
        name = f"{parent}-{step}"
        facts = self.facts.runs.setdefault(name, RunFacts(name, rule))
        facts.tried({step})
        may = (RunLocked, Fenced) if facts.acked else (RunLocked, Fenced, NotFound, Damaged)
        return self._do(slot, "fork", lambda keep: self._start(slot, keep, facts, f"run:{parent}@{step}"), may)

    def _start(self, slot: Slot, keep: Keep, facts: RunFacts, fork: str | None = None) -> None:
        name = facts.name
        held = slot.opened.pop(name, None)  # opened again in this process, the older one is closed
        if held is not None:
            facts.tried(held.pending)
            held.run.close()
            held.settled()
        before = facts.newest()
        run = keep.run(name, capture=False, fork=fork)
        run.retain = _retain(facts.rule)
        self.facts.made = facts.started = True
        slot.opened[name] = Open(run, facts)
        if run.resumed is None:
            known = facts.acked if self.place.locks or before >= 0 else ()
            self._hold(not known, f"run {name} begins anew, and {sorted(known)} are acknowledged")
            return
        checkpoint, state = run.resumed
        newest = facts.newest() if self.place.locks else before  # else somebody may have taken the run over by now
        self._hold(checkpoint.step >= newest, f"{name} goes on from {checkpoint.step}, not {newest}")
        self._must_be(state, checkpoint.step, f"{name} resumed at {checkpoint.step}")
        if checkpoint.reason == "fork":
            facts.acknowledged({checkpoint.step})

    def save(self, slot: Slot, name: str, serial: int, *, wait: bool, log: bool) -> bool:
        """Make a checkpoint of a run that is open, in the background or not."""
        one = slot.opened.get(name)
        if one is None:
            return False

        def do(_: Keep) -> None:
            if log:
                one.rows.add(serial)
                one.run.log({"loss": loss(serial)}, step=serial, epoch=0)
            before = set(one.pending)
            one.facts.tried({serial})
            one.run.save(tree(serial), step=serial, epoch=serial // 4, metrics={"loss": loss(serial)}, wait=wait)
            one.pending.add(serial)
            one.facts.acknowledged(before)
            if wait:
                one.settled()

        return self._do(slot, "save", do, (Fenced,), one)

    def wait(self, slot: Slot, name: str) -> bool:
        """Wait for everything that a run has under way."""
        one = slot.opened.get(name)
        if one is None:
            return False

        def do(_: Keep) -> None:
            one.run.wait()
            one.settled()

        return self._do(slot, "wait", do, (Fenced,), one)

    def finish(self, slot: Slot, name: str) -> bool:
        """Mark a run as finished."""
        one = slot.opened.get(name)
        if one is None:
            return False

        def do(_: Keep) -> None:
            one.run.finish({"serial": one.facts.newest()})
            one.settled()

        return self._do(slot, "finish", do, (Fenced, Conflict), one)

    def close(self, slot: Slot, name: str) -> bool:
        """Close a run."""
        one = slot.opened.pop(name, None)
        if one is None:
            return False

        def do(_: Keep) -> None:
            one.run.close()
            one.settled()

        return self._do(slot, "close", do, (Fenced,), one)

    def load(self, slot: Slot, name: str, how: str) -> bool:
        """Load a checkpoint by ``last``, ``best:loss`` or a step that must be there."""
        facts = self.facts.runs.get(name)
        if facts is None:
            return False

        def do(keep: Keep) -> None:
            stay = facts.must_stay()
            ref = f"run:{name}@{max(stay, default=0)}" if how == "step" else f"run:{name}@{how}"
            snapshot = keep.snapshot(ref)
            step = int(str(snapshot.meta["step"]))
            self._must_be(keep.load_state(snapshot), step, ref)
            self._hold(how != "last" or step >= max(stay, default=-1), f"{ref} is {step}, and {stay} are acknowledged")

        # What is let go while it is read is gone; what must stay is looked at when nobody else moves.
        return self._do(slot, "load", do, () if facts.must_stay() and not self.place.intrudes else (NotFound, Damaged))

    def gc(self, slot: Slot) -> bool:
        """Collect what nothing names."""
        return self._do(slot, "gc", lambda keep: keep.gc(dry_run=False), (RunLocked,))

    def verify(self, slot: Slot) -> bool:
        """Read everything, in the middle of whatever goes on."""
        return self._do(slot, "verify", lambda keep: keep.verify())

    def kill(self, slot: Slot) -> None:
        """A process ends where it is."""
        self.counts["kills"] += 1
        self.place.kill(slot.process)
        self._bury()

    def cut(self) -> None:
        """The power is cut while nobody does anything."""
        self.place.kernel.power_off()
        self._bury()

    def exit(self, slot: Slot) -> bool:
        """A process closes what it has and ends."""
        done = [self.close(slot, name) for name in list(slot.opened)]
        if not slot.process.dead:
            left = [self.place.kernel.disk.path_of(one) for one in slot.process.descriptors]
            self._hold(not left, f"{slot.process.name} ends with {left} open")
            self.place.kill(slot.process)
            self._bury()
        return all(done)

    # What holds at every moment

    def check(self, *, whole: bool) -> None:
        """Whether a new process finds everything that was promised; ``whole``: and a verification nothing damaged."""
        self.counts["checks"] += 1
        with self.place.observer() as keep:
            if keep is None:
                self._hold(not self.facts.made, "the keep is gone")
                return
            for snapshot_id, serial in self.facts.states.items():
                self._must_be(keep.load_state(snapshot_id), serial, f"state {snapshot_id}")
            for facts in self.facts.runs.values():
                self._check_run(keep, facts)
            if whole:
                self._check_verification(keep)

    def _check_run(self, keep: Keep, facts: RunFacts) -> None:
        record = keep.store.run(facts.name)
        if not record.exists():
            self._hold(not facts.started, f"run {facts.name} is gone")
            return
        found = record.checkpoints()
        for one in found:
            self._must_be(keep.load_state(keep.snapshot(one.snapshot_id)), one.step, f"{facts.name}@{one.step}")
        steps = {one.step for one in found}
        self._hold(
            facts.must_stay() <= steps, f"run {facts.name} has {sorted(steps)} and not {facts.must_stay() - steps}"
        )
        self._hold(steps <= facts.acked | facts.maybe, f"run {facts.name} has {steps}, of which some were never saved")
        if steps:
            self._hold(found[0].step >= facts.newest(), f"{facts.name}@last is {found[0].step}, not {facts.newest()}")
        rows = {row.step for row in record.metrics()}
        self._hold(facts.rows <= rows, f"run {facts.name} has lost the rows {facts.rows - rows}")

    def _check_verification(self, keep: Keep) -> None:
        report = keep.verify()
        self._hold(not report.foreign, f"foreign: {report.foreign}")
        for damage in report.damages:
            # A power cut may keep the record of a checkpoint that was let go, and lose its shards.
            told = damage.refs or any(one in self.facts.states for one in damage.snapshots) or not damage.snapshots
            self._hold(not told, f"verify: {damage}")

    # How a verb is done

    def _do(
        self,
        slot: Slot,
        verb: str,
        do: Callable[[Keep], object],
        may: tuple[type[ModelkeepError], ...] = (),
        one: Open | None = None,
    ) -> bool:
        """Do something in a process; an error must be one of modelkeep's, and one that has a reason."""
        self.counts[verb] += 1
        with self._as(slot):
            self.place.note(f"{verb} {one.facts.name if one is not None else ''}")
            try:
                if slot.keep is None:
                    slot.keep = self.place.open()
                do(slot.keep)
                if not any(other.pending for other in slot.opened.values()):
                    slot.process.harmed = 0
                return True
            except StorageError as error:
                self.place.note(str(error))
                self._hold(slot.process.harmed > 0, f"{verb}: {error}", error)
            except may as error:
                self.place.note(str(error))
                self.counts[f"{verb}: {error.kind}"] += 1
            except ModelkeepError as error:
                raise Broken(f"{verb}: {type(error).__name__}: {error}") from error
            except Gone:
                slot.keep = None
            if one is not None:
                one.facts.tried(one.pending)
                one.pending, one.rows = set(), set()
            return False

    @contextmanager
    def _as(self, slot: Slot) -> Iterator[None]:
        """Be a process; where it is dead, the one that takes its place."""
        if slot.process.dead:
            slot.process, slot.keep, slot.opened = self.place.replace(slot.process), None, {}
        self._busy.add(slot)
        try:
            with self.place.being(slot.process):
                yield
        finally:
            self._busy.discard(slot)
            self._bury()

    def idle(self) -> list[Slot]:
        """The processes that are not in the middle of something."""
        return [slot for slot in self.slots if slot not in self._busy]

    def _bury(self) -> None:
        """What a dead process had under way may be there or not."""
        for slot in self.slots:
            if slot.process.dead and slot.opened:
                for one in slot.opened.values():
                    one.facts.tried(one.pending)
                slot.opened = {}
                self.place.forget(slot.process)

    def _must_be(self, loaded: Any, serial: int, what: str) -> None:
        self._hold(is_tree(loaded, serial), f"{what} is not what was saved")

    def _hold(self, promise: bool, told: str, cause: Exception | None = None) -> None:
        if not promise:
            raise Broken(told) from cause


def _retain(rule: Rule) -> Retain:
    return Retain(last=rule.last, every_steps=rule.every, best=Best("loss") if rule.best else None)
