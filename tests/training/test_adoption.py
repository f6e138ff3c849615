"""``Keep.adopt``: a training of another tool goes on as a run, with the very bits that its checkpoint has."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import tensorflow as tf
import torch
from flax import nnx

import modelkeep as mk
from modelkeep.errors import Conflict, Damaged, NotFound, StateMismatch, UnknownFormat, Unsafe, UsageError
from modelkeep.keep import Keep

HERE = Path(__file__).parent
UNKNOWN = ("the random generators", "the order of the data and the place in it")


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    return mk.open(tmp_path / "keep")


@pytest.mark.parametrize(
    "backend", ["tensorflow", *(pytest.param(one, marks=pytest.mark.torture) for one in ("jax", "torch"))]
)
def test_files_of_keras_callbacks_go_on_in_fit_bit_for_bit(backend: str, tmp_path: Path) -> None:
    env = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, HERE / "adopt_keras.py", tmp_path],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout == "the same\n", done.stdout + done.stderr


# PyTorch


def torch_parts() -> dict[str, Any]:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2),
        "epoch": 0,
    }


def torch_steps(parts: dict[str, Any], first: int, until: int) -> None:
    for step in range(first, until):
        x = torch.from_numpy(np.random.default_rng(step).normal(size=(8, 3)).astype("f4"))
        loss = (parts["model"](x) - x.sum(1, keepdim=True)).square().mean()
        parts["optimizer"].zero_grad()
        loss.backward()
        parts["optimizer"].step()
        parts["scheduler"].step()


def torch_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    pairs = [one["model"].state_dict().items(), other["model"].state_dict().items()]
    slots = [list(part["optimizer"].state.values()) for part in (one, other)]
    same_slots = all(
        torch.equal(mine[name], theirs[name]) for mine, theirs in zip(*slots, strict=True) for name in mine
    )
    return same_slots and all(a == b and torch.equal(x, y) for (a, x), (b, y) in zip(*pairs, strict=True))


FORMS = {
    "as the tutorials have it": lambda parts: {
        "epoch": 2,
        "model_state_dict": parts["model"].state_dict(),
        "optimizer_state_dict": parts["optimizer"].state_dict(),
        "scheduler": parts["scheduler"].state_dict(),
        "loss": torch.tensor(0.5),
    },
    "named otherwise, under DistributedDataParallel": lambda parts: {
        "epoch": 2,
        "network": {f"module.{name}": one for name, one in parts["model"].state_dict().items()},
        "adam": parts["optimizer"].state_dict(),
        "lr_schedule": parts["scheduler"].state_dict(),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_a_dict_of_torch_save_goes_on_in_a_loop(form: str, keep: Keep, tmp_path: Path) -> None:
    whole = torch_parts()
    torch_steps(whole, 0, 5)
    torch.save(FORMS[form](whole), tmp_path / "last.pt")
    torch_steps(whole, 5, 9)
    found = keep.adopt(tmp_path / "last.pt", run="net")
    assert (found.kind, found.checkpoint.step, found.epoch) == ("torch", 5, 2)
    assert found.unknown == UNKNOWN
    parts = torch_parts()
    with keep.run("net", params={"lr": 0.01}) as run, run.checkpoints() as ckpt:
        state, start = ckpt.restore(parts)
        assert (start, state["epoch"]) == (5, 2)
        torch_steps(parts, start, 7)
        ckpt.step(7, parts)
    again = torch_parts()
    with keep.run("net", params={"lr": 0.01}) as run, run.checkpoints() as ckpt:
        _, start = ckpt.restore(again)
        torch_steps(again, start, 9)
        assert (start, run.exact) == (7, False)
    assert torch_same(again, whole)


def test_a_bare_state_dict_begins_the_optimizer_anew_and_says_so(keep: Keep, tmp_path: Path) -> None:
    whole = torch_parts()
    torch_steps(whole, 0, 3)
    torch.save(whole["model"].state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="--step N"):
        keep.adopt(tmp_path / "weights.pt", run="net")
    assert not keep.store.run("net").exists()
    found = keep.adopt(tmp_path / "weights.pt", run="net", step=3)
    assert "optimizer" in found.unknown[0]
    parts = torch_parts()
    with (
        keep.run("net") as run,
        pytest.warns(RuntimeWarning, match="optimizer, scheduler, epoch of the state is not in what was adopted"),
        run.checkpoints() as ckpt,
    ):
        ckpt.restore(parts)
    assert all(torch.equal(a, b) for a, b in zip(parts["model"].parameters(), whole["model"].parameters(), strict=True))


def test_one_entry_is_never_given_to_two_modules(keep: Keep, tmp_path: Path) -> None:
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    torch.save({"one": one.state_dict(), "step": 4}, tmp_path / "one.pt")
    keep.adopt(tmp_path / "one.pt", run="two")
    with keep.run("two") as run, run.checkpoints() as ckpt, pytest.raises(StateMismatch, match="nothing for other of"):
        ckpt.restore({"one": one, "other": other})
    torch.save({"a": one.state_dict(), "step": 4}, tmp_path / "a.pt")
    keep.adopt(tmp_path / "a.pt", run="a")
    with keep.run("a") as run, run.checkpoints() as ckpt, pytest.raises(StateMismatch, match="nothing for one, other"):
        ckpt.restore({"one": one, "other": other})


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("optimizer", {"state": {}, "param_groups": 3}),
        ("optimizer", {"state": 1, "param_groups": []}),
        ("optimizer", {"state": {}, "param_groups": [{"params": 4}]}),
        ("model", torch.ones(3)),
        ("model", {3: torch.ones(3)}),
    ],
)
def test_entries_of_another_form_are_a_typed_error(entry: str, found: Any, keep: Keep, tmp_path: Path) -> None:
    parts = torch_parts()
    whole = {"model": parts["model"].state_dict(), "optimizer": parts["optimizer"].state_dict()}
    torch.save({**whole, entry: found, "step": 4}, tmp_path / "odd.pt")
    keep.adopt(tmp_path / "odd.pt", run="odd")
    with keep.run("odd") as run, run.checkpoints() as ckpt, pytest.raises(StateMismatch, match=f"{entry} is no state"):
        ckpt.restore({"model": parts["model"], "optimizer": parts["optimizer"]})


def test_another_model_is_refused_and_nothing_changes(keep: Keep, tmp_path: Path) -> None:
    parts = torch_parts()
    torch_steps(parts, 0, 2)
    torch.save(FORMS["as the tutorials have it"](parts), tmp_path / "last.pt")
    keep.adopt(tmp_path / "last.pt", run="net")
    other = torch.nn.Sequential(torch.nn.Linear(3, 5))
    before = other[0].weight.clone()
    with keep.run("net") as run, run.checkpoints() as ckpt, pytest.raises(StateMismatch, match=r"0/weight.*float32"):
        ckpt.restore({"model": other})
    with keep.run("net") as run, run.checkpoints() as ckpt, pytest.raises(StateMismatch, match="nothing for net2"):
        ckpt.restore({"net2": other})
    assert torch.equal(other[0].weight, before)
    with keep.run("net") as run, run.checkpoints() as ckpt:  # and the right one goes on after that
        ckpt.restore(torch_parts())


# JAX


@pytest.mark.parametrize("managed", [True, False], ids=["CheckpointManager", "a checkpointer's folder"])
def test_orbax_goes_on_in_a_loop(managed: bool, keep: Keep, tmp_path: Path) -> None:
    adam = optax.adam(0.1)

    def update(state: dict[str, Any]) -> dict[str, Any]:
        grads = jax.grad(lambda params: (params["w"] ** 2).sum() + params["b"])(state["params"])
        updates, moments = adam.update(grads, state["opt_state"])
        return {
            "params": optax.apply_updates(state["params"], updates),
            "opt_state": moments,
            "step": state["step"] + 1,
        }

    params = {"w": jnp.arange(3.0), "b": jnp.ones(())}
    state = {"params": params, "opt_state": adam.init(params), "step": 0}
    for _ in range(4):
        state = update(state)
    if managed:
        with ocp.CheckpointManager(tmp_path / "orbax") as manager:
            manager.save(3, args=ocp.args.StandardSave(jax.tree.map(jnp.zeros_like, state)))
            manager.save(4, args=ocp.args.StandardSave(state))
            manager.wait_until_finished()
    else:
        with ocp.StandardCheckpointer() as saver:
            saver.save(tmp_path / "orbax", state)
    found = keep.adopt(tmp_path / "orbax", run="net")
    assert (found.kind, found.checkpoint.step) == ("orbax", 4)
    like = {"params": jax.tree.map(jnp.zeros_like, params), "opt_state": adam.init(params), "step": 0}
    with keep.run("net") as run, run.checkpoints() as ckpt:
        restored, start = ckpt.restore(like)
    assert (start, restored["step"]) == (4, 4)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert jax.tree.all(jax.tree.map(np.array_equal, update(restored), update(state)))


def test_modules_of_flax_and_a_key_go_on_from_orbax(keep: Keep, tmp_path: Path) -> None:
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "orbax", {"model": nnx.state(model), "extra": jnp.ones(2)})
    keep.adopt(tmp_path / "orbax", run="net", step=7)
    other = nnx.Linear(2, 3, rngs=nnx.Rngs(1))
    with keep.run("net") as run, run.checkpoints() as ckpt, pytest.warns(RuntimeWarning) as told:
        state, start = ckpt.restore({"model": other, "key": jax.random.key(0)})
    assert start == 7
    assert np.array_equal(state["model"].kernel[...], model.kernel[...])
    texts = [str(one.message) for one in told]
    assert any("asks for extra" in text for text in texts)
    assert any("key of the state is not in what was adopted" in text for text in texts)
    with keep.run("other-names") as run, run.checkpoints() as ckpt:
        ckpt.restore({"net": other})
    keep.adopt(tmp_path / "orbax", run="other", step=7)
    with keep.run("other") as run, run.checkpoints() as ckpt, pytest.raises(StateMismatch, match="net/kernel"):
        ckpt.restore({"net": other})


# TensorFlow


class Net(tf.Module):
    """Two variables, one of them in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [tf.Variable([[1.0], [2.0]]), tf.Variable([0.0])]


def test_a_checkpoint_manager_goes_on_in_a_loop(keep: Keep, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    parts = {"model": model, "optimizer": optimizer, "net": Net(), "step": tf.Variable(0)}

    def train(parts: dict[str, Any]) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(parts["model"](tf.ones((4, 2)), training=True))
        weights = parts["model"].trainable_variables
        parts["optimizer"].apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        parts["net"].weights[0].assign_add([[1.0], [1.0]])
        parts["step"].assign_add(1)

    manager = tf.train.CheckpointManager(tf.train.Checkpoint(**parts), tmp_path / "tf", max_to_keep=3)
    for _ in range(3):
        train(parts)
        manager.save()
    found = keep.adopt(tmp_path / "tf", run="net")
    assert (found.kind, found.checkpoint.step, Path(found.path).name) == ("tensorflow", 3, "ckpt-3.index")
    wrong = {"net": Net(), "model": model, "optimizer": optimizer, "step": np.zeros(3)}
    with keep.run("net") as run, run.checkpoints() as ckpt, pytest.raises(StateMismatch, match=r"step: wanted float64"):
        ckpt.restore(wrong)
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    adam = keras.optimizers.Adam()
    adam.build(other.trainable_variables)
    copy = {"model": other, "optimizer": adam, "net": Net(), "step": tf.Variable(0)}
    with keep.run("net") as run, run.checkpoints() as ckpt:
        _, start = ckpt.restore(copy)
    assert start == int(copy["step"]) == 3
    train(parts)
    train(copy)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))
    assert np.array_equal(copy["net"].weights[0], parts["net"].weights[0])
    keep.adopt(tmp_path / "tf" / "ckpt-2", run="second")  # as TensorFlow names it
    with keep.run("second") as run, run.checkpoints() as ckpt, pytest.raises(StateMismatch, match=r"net2/weights"):
        ckpt.restore({"net2": Net()})


def test_a_checkpoint_of_tensorflow_goes_on_in_fit(keep: Keep, tmp_path: Path) -> None:
    def build() -> keras.Model:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        return model

    x, y = np.random.default_rng(0).normal(size=(16, 2)).astype("f4"), np.ones((16, 1), "f4")
    model = build()
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, shuffle=False)
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "ckpt")
    model.fit(x, y, batch_size=4, epochs=3, initial_epoch=2, verbose=0, shuffle=False)
    keep.adopt(tmp_path / "ckpt-1.index", run="fit", epoch=2)
    other = build()
    with keep.run("fit") as run:
        history = mk.keras.fit(other, x, y, batch_size=4, epochs=3, verbose=0, shuffle=False, run=run)
    assert history.epoch == [2]
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


# Keras in loops of one's own, and what is refused


def keras_file(folder: Path, *, steps: int = 3) -> tuple[Path, keras.Model]:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(np.ones((4 * steps, 2)), np.ones((4 * steps, 3)), batch_size=4, verbose=0)
    model.save(folder / "model.keras")
    return folder / "model.keras", model


def test_a_keras_file_goes_on_in_a_loop(keep: Keep, tmp_path: Path) -> None:
    path, model = keras_file(tmp_path)
    keep.adopt(path, run="loop")
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(other.trainable_variables)
    with keep.run("loop") as run, run.checkpoints() as ckpt, pytest.raises(StateMismatch, match="give restore"):
        ckpt.restore({"model": other})
    with keep.run("loop") as run, run.checkpoints() as ckpt:
        _, start = ckpt.restore({"model": other, "optimizer": optimizer})
    assert start == int(optimizer.iterations) == 3
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))
    slots = zip(model.optimizer.variables, optimizer.variables, strict=True)
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in slots)


def test_another_keras_model_or_optimizer_is_refused_and_nothing_changes(keep: Keep, tmp_path: Path) -> None:
    path, _ = keras_file(tmp_path)
    keep.adopt(path, run="fit", epoch=1)
    for units, optimizer in ((4, "sgd"), (3, "adam")):
        other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
        other.compile(optimizer, "mse")
        before = other.get_weights()
        with keep.run("fit") as run, pytest.raises(StateMismatch, match=r"nothing was changed"):
            mk.keras.fit(other, np.ones((4, 2)), np.ones((4, units)), run=run, verbose=0)
        assert all(np.array_equal(a, b) for a, b in zip(before, other.get_weights(), strict=True))


def test_an_epoch_that_does_not_follow_from_the_steps_is_asked_for(keep: Keep, tmp_path: Path) -> None:
    path, model = keras_file(tmp_path)
    keep.adopt(path, run="fit")
    x, y = np.ones((8, 2)), np.ones((8, 3))
    with keep.run("fit") as run, pytest.raises(UsageError, match=r"3 steps, and an epoch has 2 here.*--epoch"):
        mk.keras.fit(model, x, y, batch_size=4, epochs=3, verbose=0, run=run)
    with pytest.raises(Conflict, match="adopt into another name"):
        keep.adopt(path, run="fit", epoch=1)
    keep.adopt(path, run="told")
    keep.adopt(path, run="told", epoch=1)  # nothing was trained in between
    with keep.run("told") as run:
        assert mk.keras.fit(model, x, y, batch_size=4, epochs=3, verbose=0, run=run).epoch == [1, 2]


def test_a_loss_scale_does_not_tell_the_epochs(keep: Keep, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.save(tmp_path / "model.keras")
    with pytest.raises(UsageError, match="--epoch N"):
        keep.adopt(tmp_path / "model.keras", run="fit")
    assert keep.adopt(tmp_path / "model.keras", run="fit", epoch=1).checkpoint.step == int(model.optimizer.iterations)


def test_a_backup_inside_an_epoch_says_what_is_begun_again(keep: Keep, tmp_path: Path) -> None:
    _, model = keras_file(tmp_path)
    model.save_weights(tmp_path / "latest.weights.h5")
    (tmp_path / "training_metadata.json").write_text(json.dumps({"epoch": 1, "batch": 2}))
    found = keep.adopt(tmp_path, run="fit")
    assert found.epoch == 1
    assert "what is left of epoch 2, of which it saw 2 batches" in found.unknown[-1]
    (tmp_path / "training_metadata.json").write_text(json.dumps({"epoch": "no"}))
    with pytest.raises(Damaged, match="no epoch"):
        keep.adopt(tmp_path, run="fit")


def test_what_is_no_checkpoint_is_refused_and_starts_no_run(keep: Keep, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        keep.adopt(tmp_path / "nothing", run="net")
    np.savez(tmp_path / "weights.npz", w=np.ones(2))
    with pytest.raises(UnknownFormat, match=r"modelkeep\.transfer"):
        keep.adopt(tmp_path / "weights.npz", run="net")
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "module.pt")
    with pytest.raises(Unsafe):
        keep.adopt(tmp_path / "module.pt", run="net")
    with pytest.raises(UsageError, match="step counts what is done"):
        keep.adopt(tmp_path / "module.pt", run="net", step=-1)
    assert keep.names() == []


def test_a_count_that_no_training_has_is_asked_for(keep: Keep, tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(1, 1).state_dict(), "step": 1 << 60}, tmp_path / "odd.pt")
    with pytest.raises(UsageError, match="does not tell how many steps"):
        keep.adopt(tmp_path / "odd.pt", run="net")
    (tmp_path / "steps" / "²").mkdir(parents=True)
    with pytest.raises(UnknownFormat):
        keep.adopt(tmp_path / "steps", run="net")


def test_a_run_whose_records_are_damaged_is_not_taken_for_a_new_one(keep: Keep, tmp_path: Path) -> None:
    path, _ = keras_file(tmp_path)
    with keep.run("net") as run:
        run.save({"w": np.ones(2)}, step=1, epoch=0, wait=True)
    (start,) = (tmp_path / "keep" / "runs" / "net" / "attempts").glob("*/start.json")
    start.chmod(0o644)
    start.write_bytes(start.read_bytes().replace(b"seed", b"sead"))
    with pytest.raises(Damaged):
        keep.adopt(path, run="net", epoch=1)


def test_a_run_that_was_trained_stays_as_it_is(keep: Keep, tmp_path: Path) -> None:
    path, _ = keras_file(tmp_path)
    with keep.run("net") as run:
        run.save({"w": np.ones(2)}, step=1, epoch=0, wait=True)
    with pytest.raises(Conflict, match="adopt into another name"):
        keep.adopt(path, run="net", epoch=1)
    assert keep.store.run("net").checkpoints()[0].step == 1
