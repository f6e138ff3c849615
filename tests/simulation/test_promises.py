"""Courses of events that were found or thought of, each played by hand: what they broke, or could, holds."""

import errno
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelkeep.errors import Fenced, RunLocked, StorageError
from modelkeep.store import Retain

from .facts import is_tree, tree
from .faults import Weights
from .installed import Proportions
from .kernel import Gone
from .places import BucketPlace, KernelPlace, TwinPlace
from .power import Cut
from .world import RULES, World

RECORD = "/snapshots/"


@pytest.fixture
def place() -> Iterator[TwinPlace]:
    place = TwinPlace(random.Random(1))
    with place.installed():
        yield place


def at(place: KernelPlace, verb: str, part: str, happens: Callable[[], Any], *, times: int = 1) -> None:
    """The next call, or calls, of ``verb`` on a path with ``part`` in it: something happens before it."""
    kernel, left = place.kernel, [times]

    def look(found: str, arguments: tuple[Any, ...]) -> Any:
        kernel.next_event = kernel.steps + 1
        if found != verb or part not in kernel._path(found, arguments) or not left[0]:
            return None
        left[0] -= 1
        kernel.next_event = -1
        result = happens()
        if left[0]:
            kernel.next_event = kernel.steps + 1
        return result

    kernel.on_event, kernel.next_event = look, kernel.steps + 1


def refuse(code: int = 5) -> Callable[[], Any]:
    def act(_: Any) -> Any:
        raise OSError(code, "the disk said no")

    return lambda: act


def lose_the_answer(code: int) -> Callable[[Callable[[], Any]], Any]:
    def act(do: Callable[[], Any]) -> Any:
        do()
        raise OSError(code, "the answer was lost")

    return act


def die(place: TwinPlace) -> Callable[[], Any]:
    def now() -> Any:
        place.kernel.kill(place.kernel.process)
        raise Gone

    return now


def loads_after_a_power_cut(place: TwinPlace, snapshot_id: str, serial: int) -> None:
    place.kernel.power_off()
    for _ in place.images([Cut.SOME] * 5 + [Cut.NOTHING]):
        with place.observer() as keep:
            assert is_tree(keep.load_state(snapshot_id), serial)


def test_a_state_that_is_saved_again_after_its_saver_was_killed_before_the_name_was_durable(place: TwinPlace) -> None:
    """The record is there, and only in the cache of the kernel: who is told that it is saved counts on it."""
    keep = place.open()
    at(place, "link", RECORD, lambda: at(place, "fsync", RECORD, die(place)))
    with pytest.raises(Gone):
        keep.save_state(tree(1))
    with place.being(place.spawn("second")):
        snapshot = place.open().save_state(tree(1))
    loads_after_a_power_cut(place, snapshot.id, 1)


def test_a_checkpoint_that_is_saved_again_after_its_record_could_not_be_made_durable(place: TwinPlace) -> None:
    keep = place.open()
    run = keep.run("cnn", capture=False)
    at(place, "link", RECORD, lambda: at(place, "fsync", RECORD, refuse()))  # the sync after the link is the folder's
    with pytest.raises(StorageError):
        run.save(tree(1), step=1, epoch=0, wait=True)
    run.save(tree(1), step=1, epoch=0, wait=True)
    snapshot = keep.snapshot("run:cnn@last")
    loads_after_a_power_cut(place, snapshot.id, 1)


def test_a_clock_that_jumps_a_day_while_a_state_is_saved_costs_it_not(place: TwinPlace) -> None:
    """A collector of another process takes the new shard, which no record holds yet, for garbage of yesterday."""
    keep = place.open()
    keep.save_state(tree(7))
    other = place.spawn("collector")

    def jump_and_collect() -> None:
        place.kernel.clock += 2 * 86400
        with place.being(other):
            place.open().gc(dry_run=False)

    at(place, "disk_usage", RECORD, jump_and_collect)
    snapshot = keep.save_state(tree(1))
    assert is_tree(keep.load_state(snapshot.id), 1)


@pytest.mark.parametrize("ends", [True, False])
def test_a_run_that_is_started_while_a_collection_reads_is_spared_by_any_clock(place: TwinPlace, ends: bool) -> None:
    """Its first snapshot looks old, and is named only after the collection has read what is named."""
    keep = place.open()
    keep.save_state(tree(7))
    other = place.spawn("starter")

    def start_and_save() -> None:
        place.kernel.clock -= 3 * 86400
        with place.being(other):
            run = place.open().run("cnn", capture=False)
            run.save(tree(1), step=1, epoch=0, wait=True)
            if ends:
                run.close()
        place.kernel.clock += 3 * 86400

    at(place, "scandir", "/snapshots", start_and_save)
    if ends:
        assert keep.gc(dry_run=False).removed == ()
    else:
        with pytest.raises(RunLocked):
            keep.gc(dry_run=False)
    assert is_tree(keep.load_state("run:cnn@last"), 1)


def test_a_sentence_of_all_shards_that_nobody_serves_any_more_stops_no_save(place: TwinPlace) -> None:
    """A collector on a full disk left it, and was killed: it stands for a day."""
    keep = place.open()
    keep.store.backend.create("gc/condemned/9999999998.json", b"")
    kernel = place.kernel

    def for_ever(verb: str, arguments: tuple[Any, ...]) -> None:
        raise AssertionError("the save does not end")

    kernel.on_event, kernel.next_event = for_ever, kernel.steps + 5000
    run = keep.run("cnn", capture=False)
    for serial in (1, 2):
        run.save(tree(serial), step=serial, epoch=0, wait=True)
    kernel.next_event = -1
    assert is_tree(keep.load_state("run:cnn@last"), 2)
    assert is_tree(keep.load_state(keep.save_state(tree(3)).id), 3)


def test_a_tombstone_that_only_the_cache_holds_outlives_the_record_that_a_collection_deletes(place: TwinPlace) -> None:
    """Its writer was killed before its name was durable; else a power cut brings back a checkpoint without a state."""
    run = place.open().run("cnn", capture=False)
    run.retain = Retain(last=1)
    run.save(tree(10), step=10, epoch=0, wait=True)
    at(place, "link", "/dropped/", lambda: at(place, "fsync", "/dropped", die(place)))
    with pytest.raises(Gone):
        run.save(tree(20), step=20, epoch=0, wait=True)
    place.kernel.clock += 2 * 86400
    with place.being(place.spawn("collector")):
        place.open().gc(dry_run=False)
    place.kernel.power_off()
    for _ in place.images([Cut.SOME] * 20):
        with place.observer() as keep:
            for one in keep.store.run("cnn").checkpoints():
                assert is_tree(keep.load_state(keep.store.snapshot(one.snapshot_id)), one.step)


def test_a_checkpoint_that_a_run_goes_on_from_is_durable_first(place: TwinPlace) -> None:
    """Who made it was killed before its name was; a power cut must not take what a user was shown as resumed."""
    run = place.open().run("cnn", capture=False)
    run.save(tree(1), step=1, epoch=0, wait=True)
    at(place, "link", "/checkpoints/", lambda: at(place, "fsync", "/checkpoints", die(place)))
    with pytest.raises(Gone):
        run.save(tree(2), step=2, epoch=0, wait=True)
    with place.being(place.spawn("next")):
        resumed = place.open().run("cnn", capture=False).resumed
    assert resumed is not None
    assert resumed[0].step == 2
    place.kernel.power_off()
    for _ in place.images([Cut.SOME] * 5 + [Cut.NOTHING]):
        with place.observer() as keep:
            assert is_tree(keep.load_state("run:cnn@last"), 2)


def test_of_two_that_open_a_new_place_the_one_that_comes_late_opens_what_the_other_made(place: TwinPlace) -> None:
    def overtake() -> None:
        with place.being(place.spawn("faster")):
            place.open().save_state(tree(1))

    at(place, "scandir", "/keep", overtake)
    assert place.open().names() == []


def test_a_large_file_whose_head_cannot_be_written_is_left_closed() -> None:
    place = TwinPlace(random.Random(1))
    with place.installed(Proportions(large=6000, buffer=4096)):
        keep = place.open()
        at(place, "pwrite", "/shards/", lambda: at(place, "pwrite", "/shards/", refuse()))
        with pytest.raises(StorageError):
            keep.save_state(tree(1))
        assert not place.kernel.process.descriptors


def test_a_lock_that_cannot_be_looked_at_leaves_no_file_open(place: TwinPlace) -> None:
    keep = place.open()
    at(place, "fstat", "/lock", refuse())
    with pytest.raises(StorageError):
        keep.run("cnn", capture=False)
    assert not place.kernel.process.descriptors


@pytest.mark.parametrize("part", ["/shards/", "/metrics/", "/checkpoints/"])
def test_who_has_a_name_that_cannot_be_looked_at_is_not_said_to_be_another(place: TwinPlace, part: str) -> None:
    """It is our own: the link was made, its answer got lost, and the repeated call found the name taken."""
    run = place.open().run("cnn", capture=False)

    def link_and_look() -> Any:
        at(place, "lstat", ".tmp", refuse())
        return lose_the_answer(errno.EEXIST)

    at(place, "link", part, link_and_look)
    run.log({"loss": 0.5}, step=1, epoch=0)
    with pytest.raises(StorageError, match="the device reports an error"):
        run.save(tree(1), step=1, epoch=0, wait=True)
    run.save(tree(1), step=1, epoch=0, wait=True)
    assert is_tree(place.open().load_state("run:cnn@last"), 1)


def test_a_disk_that_fills_up_while_a_process_asks_for_its_room_is_a_cause_of_the_error() -> None:
    """Of the simulation itself: another process met the full disk first, in the middle of the question."""
    nothing_else = Weights(gap=1e-9, refuse=0, lose=0, outage=0, short=0, kill=0, cut=0, jump=0)
    place = TwinPlace(random.Random(1), nothing_else)
    world, faults, kernel = World(place), place.faults, place.kernel
    assert faults is not None
    kernel.log = []

    def fill() -> None:
        _, verb, path = kernel.log[-2]
        if verb == "disk_usage" and "/shards/" in path:
            faults.begin_outage(errno.ENOSPC, calls=100)

    with place.installed():
        slot, faults.intrude = world.slots[0], fill
        assert world.start(slot, "cnn", RULES[0])
        assert not world.save(slot, "cnn", 1, wait=True, log=False)
        with faults.paused():
            assert world.save(slot, "cnn", 2, wait=True, log=False)


@pytest.mark.parametrize(
    ("verb", "part"), [("get_range", "shards/"), ("put", "attempts/")], ids=["while it reads", "before its claim"]
)
def test_who_takes_a_run_over_goes_on_from_the_last_checkpoint_that_the_older_one_was_told_of(
    verb: str, part: str
) -> None:
    """A bucket has no locks: the older one saves, and lets go of what is being read, until it is fenced."""
    place = BucketPlace(random.Random(1))
    with place.installed():
        older = place.open().run("cnn", capture=False)
        older.retain = Retain(last=1)
        older.save(tree(1), step=1, epoch=0, wait=True)
        owner, heir = place.kernel.process, place.spawn("heir")

        def go_on() -> None:
            with place.being(owner):
                for serial in (20, 30):  # which have no piece of the first
                    older.save(tree(serial), step=serial, epoch=0, wait=True)

        with place.being(heir):
            at(place, verb, part, go_on)
            run = place.open().run("cnn", capture=False)
            assert run.resumed is not None
            assert run.resumed[0].step == 30
            assert is_tree(run.resumed[1], 30)
        with place.being(owner), pytest.raises(Fenced):
            older.save(tree(40), step=40, epoch=0, wait=True)


def test_who_cannot_read_as_fast_as_another_saves_is_told_so() -> None:
    place = BucketPlace(random.Random(1))
    with place.installed():
        older = place.open().run("cnn", capture=False)
        older.retain = Retain(last=1)
        older.save(tree(1), step=1, epoch=0, wait=True)
        owner, heir, serials = place.kernel.process, place.spawn("heir"), iter(range(20, 2000, 10))

        def go_on() -> None:
            with place.being(owner):
                for serial in (next(serials), next(serials)):
                    older.save(tree(serial), step=serial, epoch=0, wait=True)

        with place.being(heir):
            at(place, "get_range", "shards/", go_on, times=5)
            keep = place.open()
            with pytest.raises(RunLocked, match="faster than they can be read"):
                keep.run("cnn", capture=False)
            run = keep.run("cnn", capture=False)
            assert run.resumed is not None
            assert is_tree(run.resumed[1], next(serials) - 10)


def test_a_save_into_a_bucket_that_stood_still_for_a_day_is_not_said_to_be_durable() -> None:
    """A collection cannot ask whether its process lives, and takes what no record has named for so long."""
    place = BucketPlace(random.Random(1))
    with place.installed():
        run = place.open().run("cnn", capture=False)
        run.save(tree(10), step=10, epoch=0, wait=True)
        owner, other = place.kernel.process, place.spawn("other")

        def stand_still() -> None:
            place.kernel.clock += 1e5
            with place.being(other):
                place.open().gc(dry_run=False)

        with place.being(owner):
            at(place, "list", "checkpoints", stand_still)
            with pytest.raises(StorageError, match="taken so long"):
                run.save(tree(20), step=20, epoch=0, wait=True)
            run.save(tree(30), step=30, epoch=0, wait=True)
        with place.observer() as keep:
            assert keep is not None
            assert keep.verify().ok
            assert is_tree(keep.load_state("run:cnn@last"), 30)
            assert [one.step for one in keep.store.run("cnn").checkpoints()] == [30, 10]
