"""Where weights come from: any source, remembered until the model is published, from a live model and a checkpoint."""

from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from blake3 import blake3

import modelkeep as mk
from modelkeep.errors import Conflict, NotFound, UsageError
from modelkeep.frameworks import keras as door
from modelkeep.keep import Keep
from modelkeep.state import flatten


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    return mk.open(tmp_path / "keep")


def network(classes: int) -> keras.Model:
    inside = [keras.layers.Dense(64, "relu", name="body"), keras.layers.Dense(classes, name="head")]
    return keras.Sequential([keras.Input((8,), name="x"), *inside])


def body(model: keras.Model) -> bytes:
    return model.get_layer("body").kernel.numpy().tobytes()


def test_every_kind_of_source_gives_the_same_weights(keep: Keep, tmp_path: Path) -> None:
    start = network(3)
    start.compile("sgd", "mse")
    version = keep.publish("start", start)
    with keep.run("cnn", seed=1) as run:
        mk.keras.fit(start, np.zeros((8, 8)), np.zeros((8, 3)), epochs=1, verbose=0, run=run)
    start.save(tmp_path / "start.keras")
    start.save_weights(tmp_path / "start.weights.h5")
    arrays = {name: array.copy() for name, array in flatten(door.state_of(start)["model"]).arrays.items()}
    np.savez(tmp_path / "start.npz", **arrays)
    sources = ["start@1", version, keep.snapshot(version), "model:start", f"{keep.url}#start@1", "run:cnn@last", start]
    sources += [arrays, tmp_path / "start.npz", str(tmp_path / "start.npz"), tmp_path / "start.weights.h5"]
    for source in sources:
        model = network(5)
        report = mk.transfer(model, source, keep=keep, skip="head")
        assert [entry.path for entry in report.loaded] == ["body/kernel", "body/bias"], source
        assert body(model) == body(start), source
    linear = torch.nn.Sequential()
    linear.add_module("body", torch.nn.Linear(8, 64))
    model = network(5)
    mk.transfer(model, linear, skip="head")
    assert body(model) == linear.body.weight.detach().numpy().T.tobytes()


def test_a_version_that_weights_came_from_becomes_a_parent(keep: Keep, tmp_path: Path) -> None:
    keep.publish("start", network(3))
    backbone = network(3)
    mk.transfer(backbone, "start@1", keep=keep)
    outputs = keras.layers.Dense(5, name="other")(backbone.get_layer("body").output)
    version = keep.publish("tuned", keras.Model(backbone.inputs, outputs))
    meta = keep.snapshot(version).meta["lineage"]
    assert isinstance(meta, dict)
    (origin,) = meta["transferred"]
    assert (origin["model"], origin["version"], origin["layers"]) == ("start", 1, 1)
    assert [(one.model, one.number) for one in version.parents] == [("start", 1)]
    with pytest.raises(Conflict, match="tuned"):
        keep.model("start").remove(1)
    other = mk.open(tmp_path / "other")  # where no such version is: it is said, and not a parent
    assert other.publish("tuned", backbone).parents == ()


def test_a_file_is_named_with_its_hash_and_once(keep: Keep, tmp_path: Path) -> None:
    file = tmp_path / "weights.npz"
    np.savez(file, **{"body/kernel": np.ones((8, 64), "f4"), "body/bias": np.ones(64, "f4")})
    model = network(3)
    for _ in range(2):
        mk.transfer(model, file, skip="head")
    meta = keep.snapshot(keep.publish("tuned", model)).meta["lineage"]
    digest = blake3(file.read_bytes()).hexdigest()
    assert meta == {"transferred": [{"file": "weights.npz", "format": "npz", "blake3": digest, "layers": 1}]}
    assert "weights of weights.npz" in keep.load_state("tuned@1", select="card")["card"]


def test_frozen_bytes_are_written_once_and_a_promoted_checkpoint_tells_its_lineage(keep: Keep) -> None:
    keep.publish("start", network(3))
    model = network(5)
    mk.transfer(model, "start@1", keep=keep, skip="head", freeze=True)
    model.compile("sgd", "mse")
    x, y = np.ones((16, 8)), np.ones((16, 5))
    with keep.run("tune", seed=1) as run:
        mk.keras.fit(model, x, y, epochs=3, verbose=0, run=run, checkpoint=mk.every(epochs=1))
    first, *_, last = [keep.snapshot(one) for one in keep.store.run("tune").checkpoints()]
    assert first.id != last.id
    assert first.tensors["model/body/kernel"].pieces == last.tensors["model/body/kernel"].pieces
    assert first.tensors["model/head/kernel"].pieces != last.tensors["model/head/kernel"].pieces
    version = keep.publish("tuned", "run:tune@last")
    assert [(one.model, one.number) for one in version.parents] == [("start", 1)]


def test_a_source_that_is_none_is_said(keep: Keep, tmp_path: Path) -> None:
    model = network(3)
    with pytest.raises(NotFound, match="there is no model start"):
        mk.transfer(model, "model:start@1", keep=keep)
    with pytest.raises(NotFound, match="no such file"):
        mk.transfer(model, tmp_path / "no.npz")
    with pytest.raises(UsageError, match="holds no model but a state"):
        mk.transfer(model, keep.save_state({"w": np.ones(3)}), keep=keep)
    with pytest.raises(UsageError, match="a source is a REF"):
        mk.transfer(model, 3)
