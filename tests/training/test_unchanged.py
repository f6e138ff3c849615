"""A frozen TensorFlow variable is neither hashed nor written again, and never taken for what it no longer is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import modelkeep as mk
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
