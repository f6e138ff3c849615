"""A keep in an object store keeps every promise of a backend, on two servers, and says what a store does not."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelkeep as mk
from modelkeep.backend import Backend, open_backend
from modelkeep.backend.objects import ObjectBackend
from modelkeep.errors import AlreadyExists, Fenced, StorageError, UsageError
from modelkeep.snapshot.canonical import seal, unseal
from modelkeep.store.numbering import newest_first
from modelkeep.testing.backend_suite import BackendSuite

from ..object_stores import Proxy, at

HERE = Path(__file__).parent
MANY = 2500
"""Checkpoints: more than two pages of a listing."""


class TestSeaweed(BackendSuite):
    @pytest.fixture
    def backend(self, seaweed_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Backend:
        return open_backend(at(seaweed_server, monkeypatch))

    def reopen(self, backend: Backend) -> Backend:
        return open_backend(backend.url)


class TestMoto(BackendSuite):
    @pytest.fixture
    def backend(self, moto_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Backend:
        return open_backend(at(moto_server, monkeypatch))

    def reopen(self, backend: Backend) -> Backend:
        return open_backend(backend.url)


def test_a_state_of_many_shards_goes_up_side_by_side_and_comes_back(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectBackend, "shard_bytes", 1 << 20)
    keep, tree = mk.open(place), {str(n): np.random.default_rng(n).normal(size=70_000) for n in range(20)}
    snapshot = keep.save_state(tree)
    assert len(snapshot.shards) == 20
    found = mk.open(place).load_state(snapshot.id)
    assert all(np.array_equal(tree[name], found[name]) for name in tree)
    tree["3"] = tree["3"] + 1
    again = keep.save_state(tree)
    assert np.array_equal(keep.load_state(again.id)["3"], tree["3"])
    assert keep.verify().damages == ()


def test_a_run_goes_on_in_a_bucket_with_the_bits_of_one_on_a_disk(place: str, tmp_path: Path) -> None:
    def walk(where: str | Path, until: int) -> tuple[int, Any]:
        with mk.open(where).run("walk", seed=3) as run, run.checkpoints(mk.every(steps=1)) as ckpt:
            state, start = ckpt.restore({"at": np.zeros(2)})
            for step in range(start, until):
                state["at"] += np.random.normal(size=2)
                ckpt.step(step + 1, state)
        return start, state["at"]

    assert walk(place, 3)[0] == 0
    start, found = walk(place, 5)
    assert start == 3
    assert np.array_equal(found, walk(tmp_path / "keep", 5)[1])
    assert [one.step for one in mk.open(place).store.run("walk").checkpoints()] == [5, 4, 3]


def test_of_two_attempts_at_a_run_the_older_one_is_fenced(place: str) -> None:
    stores = [mk.open(place).store for _ in range(2)]
    attempts = [store.run("walk").start_attempt({}) for store in stores]  # no lock tells whether the other lives

    def commit(which: int, step: int) -> None:
        snapshot = stores[which].save({"at": np.full(2, step)})
        stores[which].run("walk").commit_checkpoint(attempts[which], snapshot, step=step, epoch=0)

    commit(1, 1)
    with pytest.raises(Fenced, match="the newer owns the run"):
        commit(0, 2)
    commit(1, 3)
    assert [one.step for one in stores[0].run("walk").checkpoints()] == [3, 1]


def test_a_model_is_published_to_a_bucket_and_loaded_from_it(place: str) -> None:
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    x = np.ones((2, 3), "float32")
    assert mk.open(place).publish("digits", model, example=x).ref == "model:digits@1"
    mk.open(place).alias("digits", "champion", 1)
    loaded = mk.load_model(f"{place}#model:digits@champion", check=True)
    assert np.array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


# What can be wrong


def test_a_missing_bucket_and_wrong_credentials_are_told_apart(
    moto_server: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mk.open(place).save_state({"a": 1})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="the store refused the credentials"):
        mk.open(place)
    for name, value in moto_server.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match="there is no bucket s3://none; create it, or name another one"):
        mk.open("s3://none/keep")
    with pytest.raises(UsageError, match=r"names no bucket; give s3://BUCKET/PREFIX"):
        mk.open("s3://")


def test_a_store_that_nobody_answers_for_is_named(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    away = ObjectBackend(place, retry_config={"max_retries": 0})
    with pytest.raises(StorageError, match=r"could not read s3://.*/a: .*see that the network and the store are there"):
        away.read("a")
    with pytest.warns(RuntimeWarning, match="the clock of the store cannot be read"):
        assert abs(away.now() - time.time()) < 5


def test_an_answer_that_is_lost_is_no_conflict(proxy: Proxy, through: str) -> None:
    backend = open_backend(through)
    backend.create("before", b"x")
    lost = proxy.lose_one_answer("a")
    backend.create("a", b"mine")
    assert lost
    assert [one for one in proxy.seen if one[0] == "PUT" and one[1].endswith("/a")][1:]
    assert backend.read("a") == b"mine"
    with pytest.raises(AlreadyExists):
        open_backend(through).create("a", b"mine")


def test_a_bucket_that_ignores_conditions_is_refused_before_anything_is_written(
    moto_server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before moto, for it does not check signatures: what is signed here is that there was a condition."""
    with Proxy(moto_server["AWS_ENDPOINT_URL"]) as proxy:
        proxy.rule = lambda method, path: "unconditional"
        place = at({**moto_server, "AWS_ENDPOINT_URL": proxy.url}, monkeypatch)
        with pytest.raises(StorageError, match="this store replaces objects that it was asked to create only if abs"):
            mk.open(place)
        assert [one.key for one in open_backend(place).list("")] == []
        proxy.shutdown()


def test_the_newest_of_more_checkpoints_than_a_page_holds_is_found_with_five_requests(
    proxy: Proxy, through: str
) -> None:
    with mk.open(through).run("long", seed=1) as run:
        run.save({"at": np.zeros(1)}, step=1, epoch=0, wait=True)
    store = mk.open(through).store
    document = unseal(store.backend.read("runs/long/checkpoints/9999999998.json"), "record")

    def make(number: int) -> None:
        key = f"runs/long/checkpoints/{newest_first(number)}.json"
        store.backend.create(key, seal({**document, "number": number, "step": number}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(2, MANY)))
    del proxy.seen[:]
    found = mk.open(through).store.resolve("run:long@last")
    assert found.id == document["snapshot"]
    assert len(proxy.seen) <= 5, proxy.seen


def test_a_kill_in_the_middle_of_an_upload_loses_nothing_acknowledged(place: str) -> None:
    command = [sys.executable, HERE / "save_into_bucket.py", place]
    for moment in (0.02, 0.1, 0.25, 0.4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told = [process.stdout.readline()]
            time.sleep(moment)  # the next one is on its way, as two objects
            process.kill()
            told += process.stdout.readlines()
        keep = mk.open(place, create=False)
        newest = keep.store.run("long").checkpoints()[0]
        assert newest.step in (int(told[-1]), int(told[-1]) + 1)
        found = keep.load_state("run:long@last")
        assert found["step"] == newest.step
        assert (found["w"] == newest.step).all()
    assert mk.open(place, create=False).verify().ok
