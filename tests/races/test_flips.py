"""One bit of any object is flipped: each reader that needs it names what is damaged, and all others read as before.

The objects lie in memory, so that a hundred thousand bits take a minute or two; `tests/store/test_check.py` flips some
in files, and asks `verify`.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from modelkeep import Keep
from modelkeep import open as open_keep
from modelkeep.backend import memory
from modelkeep.errors import Damaged, LimitExceeded, ModelkeepError, UnknownFormat
from modelkeep.snapshot.safetensors import data_start, parse_header
from modelkeep.store import Retain, Store, layout, newest_good

from ..simulation.facts import is_tree, tree

TOLD = (Damaged, UnknownFormat, LimitExceeded)
_COUNT = itertools.count()


@dataclass(frozen=True)
class Built:
    """A keep in memory, and what each of its readers returns."""

    url: str
    place: Any
    states: dict[str, int]
    """The serial of each snapshot, by its id."""
    holders: dict[str, list[str]]
    """The snapshots that need a shard, by the shard's key."""
    readers: dict[str, Callable[[Store], Any]]
    """How the run's objects are read, by the folder that they lie in."""
    read: dict[str, Any]


@pytest.fixture(scope="module")
def built() -> Built:
    """Two runs of which one is a fork, one is finished, with tombstones and metrics; and two states."""
    url = f"memory://flips-{next(_COUNT)}"
    keep = open_keep(url)
    for serial in (1, 2):
        keep.save_state(tree(serial), meta={"serial": serial})
    with keep.run("cnn", capture=False) as run:
        run.retain = Retain(last=3)
        for serial in range(3, 9):
            run.log({"loss": 1 / serial}, step=serial, epoch=0)
            run.save(tree(serial), step=serial, epoch=0, metrics={"loss": 1 / serial}, wait=True)
    with keep.run("fork", capture=False, fork="run:cnn@7") as run:
        run.save(tree(9), step=9, epoch=0, wait=True)
        run.finish({"epochs": 1})
    readers: dict[str, Callable[[Store], Any]] = {}
    for name in ("cnn", "fork"):
        readers |= _readers_of(name)
    store = keep.store
    states, holders = {}, {}
    for entry in store.backend.list(layout.SNAPSHOTS):
        snapshot = store.snapshot(layout.snapshot_of(entry.key))
        states[snapshot.id] = int(str(snapshot.meta.get("step", snapshot.meta.get("serial"))))
        for shard in snapshot.shards:
            holders.setdefault(layout.shard_key(shard), []).append(snapshot.id)
    read = {folder: reader(Store.open(store.backend)) for folder, reader in readers.items()}
    return Built(url, memory._PLACES[url.removeprefix("memory://")], states, holders, readers, read)


def _readers_of(name: str) -> dict[str, Callable[[Store], Any]]:
    return {
        f"runs/{name}/attempts": lambda store: (store.run(name).attempts(), store.run(name).metrics()),
        f"runs/{name}/checkpoints": lambda store: store.run(name).checkpoints(dropped=True),
        f"runs/{name}/dropped": lambda store: store.run(name).dropped(),
        f"runs/{name}/finished": lambda store: store.run(name).finished(),
    }


def bits(built: Built, chance: random.Random, count: int) -> Iterator[tuple[str, int]]:
    """So many different bits, over all objects alike as far as they have enough."""
    left = {key: _shuffled(8 * len(data), chance, count) for key, (data, _) in built.place.objects.items()}
    done = 0
    while done < count and left:
        for key in list(left):
            bit = next(left[key], None)
            if bit is None:
                del left[key]
            if bit is None or done == count:
                continue
            yield key, bit
            done += 1


def _shuffled(size: int, chance: random.Random, most: int) -> Iterator[int]:
    return iter(chance.sample(range(size), min(size, most)))


def flipped(built: Built, key: str, bit: int) -> tuple[bytes, float]:
    """Flip a bit; return the object as it was."""
    whole, modified = built.place.objects[key]
    data = bytearray(whole)
    data[bit // 8] ^= 1 << bit % 8
    built.place.objects[key] = bytes(data), modified
    return whole, modified


def try_flip(built: Built, key: str, bit: int, *, others: bool) -> str:
    """What was said of a flipped bit: its kind of object. Raises where it was not said."""
    whole = flipped(built, key, bit)
    try:
        if key == layout.KEEP:
            _must_be_told(lambda: open_keep(built.url), key)
            return "keep"
        keep = open_keep(built.url)
        if key.startswith(layout.SNAPSHOTS):
            _must_be_told(lambda: keep.store.snapshot(layout.snapshot_of(key)), key)
            hit = {layout.snapshot_of(key)}
        elif key.startswith(layout.SHARDS):
            hit = set(_check_shard(built, keep, key, bit // 8, whole[0]))
        else:
            folder = "/".join(key.split("/")[:3])
            _must_be_told(lambda: built.readers[folder](keep.store), key)
            hit = set()
        if others:
            _check_others(built, key, hit)
        return key.split("/")[2] if key.startswith("runs/") else key.split("/", maxsplit=1)[0]
    finally:
        built.place.objects[key] = whole


def _must_be_told(read: Callable[[], Any], key: str) -> None:
    with pytest.raises(TOLD) as caught:
        read()
    assert key in str(caught.value), caught.value


def _check_shard(built: Built, keep: Keep, key: str, byte: int, whole: bytes) -> list[str]:
    """Who needs the byte hears which tensor it is of; who does not loads what was saved. Returns whom it hits."""
    hit = []
    for snapshot_id in built.holders.get(key, ()):
        snapshot = keep.store.snapshot(snapshot_id)
        needed = _tensors_at(snapshot, key, byte, whole)
        if not needed:
            assert is_tree(keep.load_state(snapshot), built.states[snapshot_id])
            continue
        hit.append(snapshot_id)
        with pytest.raises(Damaged) as caught:
            keep.load_state(snapshot)
        assert caught.value.key == key
        assert key in str(caught.value)
        for path in needed:
            assert path in str(caught.value)
    return hit


def _tensors_at(snapshot: Any, key: str, byte: int, whole: bytes) -> set[str]:
    """The tensors of a snapshot that a byte of a shard is part of; a byte of its header is part of all."""
    header = parse_header(whole[: data_start(whole[:8], len(whole), key)], size=len(whole), key=key)
    inside = {place.key: piece for piece, place in snapshot.places.items() if layout.shard_key(place.shard) == key}
    if byte >= header.data_start:
        lies = {name: header.entries[name] for name in inside}
        at = byte - header.data_start
        inside = {name: inside[name] for name, one in lies.items() if one.start <= at < one.stop}
    pieces = set(inside.values())
    return {path for path, spec in snapshot.tensors.items() if not pieces.isdisjoint(spec.pieces)}


def _check_others(built: Built, key: str, hit: set[str]) -> None:
    """Everything that the bit is no part of reads as before, and a run goes on from the newest that is whole."""
    keep = open_keep(built.url)
    for snapshot_id, serial in built.states.items():
        if snapshot_id not in hit:
            assert is_tree(keep.load_state(snapshot_id), serial)
    for folder, reader in built.readers.items():
        with _named(key):  # the list of checkpoints needs the tombstones
            assert reader(Store.open(keep.store.backend)) == built.read[folder]
    for name in ("cnn", "fork"):
        with _named(key):  # a piece that all checkpoints share
            _goes_on(built, keep.store, name, key)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """What is read in the block reads, or the error names the object."""
    try:
        yield
    except TOLD as error:
        if key not in str(error):
            raise


def _goes_on(built: Built, store: Store, name: str, key: str) -> None:
    told: list[str] = []
    good = newest_good(store, store.run(name), lambda what, error: told.append(f"{what} {error}"))
    assert good is not None
    assert is_tree(good[2], good[0].step)
    assert good[0] == built.read[f"runs/{name}/checkpoints"][0] or any(key in one for one in told)


def test_a_flipped_bit_is_named_by_who_needs_it_and_changes_nothing_for_others(built: Built) -> None:
    told = Counter(
        try_flip(built, *one, others=number % 5 == 0) for number, one in enumerate(bits(built, random.Random(1), 1500))
    )
    assert told.keys() == {"keep", "snapshots", "shards", "attempts", "checkpoints", "dropped", "finished"}
    assert told.total() == 1500


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_each_of_100_000_flipped_bits_is_named_or_changes_nothing(built: Built, tried: Callable[..., None]) -> None:
    told = Counter[str]()
    for number, (key, bit) in enumerate(bits(built, random.Random(2), 100_000)):
        told[try_flip(built, key, bit, others=number % 20 == 0)] += 1
    where = ", ".join(f"{kind} {count}" for kind, count in sorted(told.items()))
    tried(told.total(), "bits of a keep that were flipped", where)
    assert told.total() == 100_000


def test_an_error_of_another_kind_would_be_seen(built: Built) -> None:
    """The check itself: a bit that nobody looks at fails it."""
    whole = dict(built.place.objects)
    try:
        built.place.objects["runs/cnn/checkpoints/unlooked"] = b"nothing of ours", 0.0
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            try_flip(built, "runs/cnn/checkpoints/unlooked", 5, others=False)
    finally:
        built.place.objects.clear()
        built.place.objects.update(whole)
    assert issubclass(Damaged, ModelkeepError)
