"""What an object store can do: whether it keeps the promises that a keep rests on, and how fast it is from here."""

import secrets
from collections.abc import Callable
from statistics import median

from modelkeep.backend import Backend, Workers
from modelkeep.store.measures import Check, Diagnosis, Speeds, check_creation, hash_speed, scratch, timed

_SMALL = 9


def examine_objects(backend: Backend, probe_bytes: int) -> Diagnosis:
    """Try and measure a bucket. What is written to try lies below ``doctor/`` and is removed.

    Raises:
        StorageError: it is not there, refuses the credentials, or replaces objects that it should only create.
    """
    with scratch(backend) as name:
        speeds = _measure(backend, name, probe_bytes)
        checks = (check_creation(backend, name), _listing(backend, name), _locks(), _small_objects(speeds.sync_seconds))
    return Diagnosis(backend.url, "an object store", None, checks, speeds)


def _listing(backend: Backend, name: Callable[[str], str]) -> Check:
    key = name("listed")
    backend.create(key, b"x")
    if any(entry.key == key for entry in backend.list(key.rpartition("/")[0])):
        return Check("listing", "ok", "what was just written is listed")
    advice = "use another store: the newest checkpoint could be missed"
    return Check("listing", "broken", "an object that was just written is not listed", advice)


def _locks() -> Check:
    found = "a store has none; the older of two processes of one run is stopped at its next checkpoint"
    return Check("locks", "ok", found)


def _small_objects(seconds: float) -> Check:
    found = f"a small object is durable in {seconds * 1e3:.0f} ms"
    if seconds > 1:
        advice = "save into a folder first: mk.open(url, staging=DIR)"
        return Check("requests", "unsure", f"{found}: the store, or the way to it, is slow", advice)
    return Check("requests", "ok", found)


def _measure(backend: Backend, name: Callable[[str], str], nbytes: int) -> Speeds:
    """As many objects of a shard's size at once as saves and loads have under way."""
    size = min(backend.shard_bytes, max(1, nbytes // backend.requests))
    chunk = secrets.token_bytes(min(size, 4 << 20))
    data = (chunk * (size // len(chunk) + 1))[:size]
    keys = [name(f"object-{number}") for number in range(backend.requests)]
    writes: list[float] = []
    reads: list[float] = []
    with Workers(backend.requests, "modelkeep-doctor") as workers:
        with timed(writes):
            for done in [workers.submit(backend.create, key, data) for key in keys]:
                done.result()
        targets = [memoryview(bytearray(size)) for _ in keys]
        with timed(reads):
            pairs = zip(keys, targets, strict=True)
            for read in [workers.submit(backend.read_into, key, 0, target) for key, target in pairs]:
                read.result()
    small: list[float] = []
    for number in range(_SMALL):
        with timed(small):
            backend.create(name(f"small-{number}"), b"x" * 512)
    total = size * len(keys)
    return Speeds(total / writes[0], total / reads[0], hash_speed(memoryview(chunk)), median(small))
