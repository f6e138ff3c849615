"""A frozen TensorFlow variable or jax array is neither hashed nor written again, nor taken for what it no longer is."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

import modelkeep as mk
from modelkeep.errors import StorageError
from modelkeep.frameworks import jax as jax_door
from modelkeep.frameworks import tensorflow as tensorflow_door
from modelkeep.store import Store


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[str]]:
    """What each save was told to be unchanged."""
    told: list[frozenset[str]] = []
    real = Store.save

    def spy(store: Store, tree: Any, **options: Any) -> Any:
        told.append(options.get("unchanged", frozenset()))
        return real(store, tree, **options)

    monkeypatch.setattr(Store, "save", spy)
    return told


def variables() -> dict[str, tf.Variable]:
    values = np.arange(50_000, dtype="float32")
    return {"frozen": tf.Variable(values), "half": tf.Variable(values, dtype=tf.bfloat16), "head": tf.Variable([1.0])}


def test_what_was_equal_twice_is_known_by_its_buffer_until_it_is_written_to(
    tmp_path: Path, asked: list[frozenset[str]]
) -> None:
    held = variables()
    with mk.open(tmp_path / "keep").run("r", capture=False) as run:
        for step in range(1, 8):
            held["head"].assign_add([1.0])
            if step == 4:
                held["frozen"].assign_add(tf.ones(50_000))
            if step == 6:
                held["frozen"].scatter_update(tf.IndexedSlices([9.0], [3]))
            run.save(tensorflow_door.state_of(held), step=step, epoch=0, wait=True)
            saved = mk.open(tmp_path / "keep").load_state("r@last")
            for name, variable in held.items():
                assert saved[name].tobytes() == variable.numpy().tobytes(), (name, step)
    assert ["frozen" in told for told in asked] == [False, False, True, False, False, False, False]
    assert all("head" not in told for told in asked)


def test_arrays_that_somebody_could_write_to_are_never_taken_for_unchanged(
    tmp_path: Path, asked: list[frozenset[str]]
) -> None:
    array = np.zeros(50_000)
    with mk.open(tmp_path / "keep").run("r", capture=False) as run:
        for step in range(1, 5):
            array.setflags(write=True)
            array[0] = 0 if step < 4 else 7
            array.setflags(write=False)
            run.save({"w": array}, step=step, epoch=0, wait=True)
    assert not any(asked)
    assert mk.open(tmp_path / "keep").load_state("r@last")["w"][0] == 7


def test_a_jax_array_is_known_by_the_object_that_it_is(tmp_path: Path, asked: list[frozenset[str]]) -> None:
    train = jax.jit(lambda head: head + 1, donate_argnums=0)
    params = {"frozen": jnp.arange(50_000.0), "head": jnp.zeros(3), "key": jax.random.key(0)}
    with mk.open(tmp_path / "keep").run("r", capture=False) as run:
        for step in range(1, 7):
            params["head"] = train(params["head"])
            if step == 4:
                params["frozen"] = params["frozen"] * 1.0  # equal, and another array
            if step == 5:
                params["frozen"] = params["frozen"] + 1
            run.save(jax_door.state_of(params), step=step, epoch=0, wait=True)
            saved = mk.open(tmp_path / "keep").load_state("r@last")
            assert saved["frozen"].tobytes() == np.asarray(params["frozen"]).tobytes(), step
            assert saved["head"].tolist() == [step] * 3
    assert ["frozen" in told for told in asked] == [False, True, True, False, False, True]
    assert all("head" not in told for told in asked)


def test_a_jax_array_in_the_memory_of_one_that_was_given_away_is_another(
    tmp_path: Path, asked: list[frozenset[str]]
) -> None:
    step_of = jax.jit(lambda held, head: (held.at[0].add(1.0), head), donate_argnums=(0, 1))
    held, head = jnp.zeros(50_000), jnp.zeros(50_000)
    with mk.open(tmp_path / "keep").run("r", capture=False) as run:
        for step in range(1, 5):
            held, head = step_of(held, head)
            run.save(jax_door.state_of({"held": held, "head": head}), step=step, epoch=0, wait=True)
            assert mk.open(tmp_path / "keep").load_state("r@last")["held"][0] == step
    assert not any(asked)


def test_part_of_an_array_is_not_taken_for_the_whole_of_it(tmp_path: Path, asked: list[frozenset[str]]) -> None:
    whole = np.asarray(jnp.arange(100.0))
    with mk.open(tmp_path / "keep").run("r", capture=False) as run:
        for step, part in enumerate([whole[:50], whole[50:], whole[50:], whole[50:][::-1]], start=1):
            run.save({"part": part}, step=step, epoch=0, wait=True)
            assert mk.open(tmp_path / "keep").load_state("r@last")["part"].tolist() == part.tolist()
    assert ["part" in told for told in asked] == [False, False, True, False]


def test_what_is_unchanged_since_a_checkpoint_that_failed_is_not_taken_from_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = jnp.zeros(1000), jnp.ones(1000)
    with mk.open(tmp_path / "keep").run("r", capture=False) as run:
        run.save(jax_door.state_of({"w": old}), step=1, epoch=0, wait=True)
        record = run.store.run("r")
        with monkeypatch.context() as patch:
            patch.setattr(type(record), "commit_checkpoint", _refuse)
            with pytest.raises(StorageError):
                run.save(jax_door.state_of({"w": new}), step=2, epoch=0, wait=True)
        run.save(jax_door.state_of({"w": new}), step=3, epoch=0, wait=True)
    assert mk.open(tmp_path / "keep").load_state("r@last")["w"].tolist() == [1.0] * 1000


def _refuse(*_: Any, **__: Any) -> Any:
    raise StorageError("no space")
