"""``run.checkpoints``: what it keeps, when, and what it refuses."""

import random
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torchdata.stateful_dataloader import StatefulDataLoader

import modelkeep as mk
from modelkeep.errors import StateMismatch, UnsupportedState, UsageError
from modelkeep.keep import Keep


class Loop(NamedTuple):
    """The state of a loop."""

    net: Any
    moments: Any
    key: Any


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    return mk.open(tmp_path / "keep")


def steps(keep: Keep, name: str = "walk") -> list[tuple[int, str]]:
    return [(one.step, one.reason) for one in reversed(keep.store.run(name).checkpoints())]


def same(one: Any, other: Any) -> bool:
    return bool(jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), one, other)))


def walk(keep: Keep, until: int, **options: Any) -> tuple[int, Any]:
    with keep.run("walk", seed=3) as run, run.checkpoints(**options) as ckpt:
        state, start = ckpt.restore({"at": np.zeros(2), "draws": 0})
        for step in range(start, until):
            state["at"] += np.random.normal(size=2) + random.random()
            state["draws"] += 1
            ckpt.step(step + 1, state, {"far": np.abs(state["at"])}, epoch=(step + 1) // 4)
    return start, state


def test_it_saves_when_due_and_at_the_end_and_goes_on_from_there(keep: Keep, tmp_path: Path) -> None:
    start, found = walk(keep, 7, every=mk.every(steps=3), retain=mk.retain(last=10))
    assert (start, steps(keep)) == (0, [(0, "start"), (3, "policy"), (6, "policy"), (7, "final")])
    start, found = walk(keep, 11, every=mk.every(epochs=1), retain=mk.retain(last=10))
    assert (start, found["draws"]) == (7, 11)
    assert steps(keep)[4:] == [(8, "policy"), (11, "final")]
    _, whole = walk(mk.open(tmp_path / "whole"), 11, every=mk.every(steps=100))
    assert np.array_equal(found["at"], whole["at"])
    rows = keep.store.run("walk").metrics()
    assert [row.step for row in rows] == list(range(1, 12))
    assert rows[0].values.keys() == {"far/0", "far/1"}


def test_an_error_in_the_loop_saves_nothing_more(keep: Keep) -> None:
    with pytest.raises(ZeroDivisionError), keep.run("walk") as run, run.checkpoints(mk.every(steps=2)) as ckpt:
        state, _ = ckpt.restore({"at": np.zeros(2)})
        for step in range(3):
            ckpt.step(step + 1, state)
        raise ZeroDivisionError
    assert [step for step, _ in steps(keep)] == [0, 2]


def test_torch_objects_are_put_back_where_they_are(keep: Keep) -> None:
    def made() -> dict[str, Any]:
        net = torch.nn.Linear(2, 1)
        optimizer = torch.optim.Adam(net.parameters())
        return {
            "net": net, "optimizer": optimizer, "schedule": torch.optim.lr_scheduler.StepLR(optimizer, 2),
            "scaler": torch.amp.GradScaler("cpu"), "generator": torch.Generator().manual_seed(1), "epoch": 0,
        }  # fmt: skip

    def train(until: int) -> tuple[int, dict[str, Any]]:
        with keep.run("net", seed=1) as run, run.checkpoints(mk.every(steps=1)) as ckpt:
            state, start = ckpt.restore(given := made())
            assert state is given
            for step in range(start, until):
                loss = state["net"](torch.randn(4, 2, generator=state["generator"]) + torch.rand(1)).square().mean()
                state["optimizer"].zero_grad()
                state["scaler"].scale(loss).backward()
                state["scaler"].step(state["optimizer"])
                state["scaler"].update()
                state["schedule"].step()
                ckpt.step(step + 1, state, {"loss": loss})
        return start, state

    train(2)
    start, state = train(4)
    assert start == 2
    assert state["schedule"].last_epoch == 4
    assert len(keep.store.run("net").metrics()) == 4


def test_a_pytree_of_jax_comes_back_anew_with_its_keys(keep: Keep) -> None:
    def train(until: int) -> Any:
        with keep.run("tree") as run, run.checkpoints(mk.every(steps=1)) as ckpt:
            state, start = ckpt.restore({"w": (jnp.ones(2), None), "key": jax.random.key(1)})
            for step in range(start, until):
                key, now = jax.random.split(state["key"])
                state = {"w": (state["w"][0] + jax.random.normal(now, 2), None), "key": key}
                ckpt.step(step + 1, state)
        return state

    train(2)
    found = train(3)
    assert isinstance(found["w"], tuple)
    other = mk.open("memory://checkpoints-whole")
    with other.run("tree") as run, run.checkpoints() as ckpt:
        state, _ = ckpt.restore({"w": (jnp.ones(2), None), "key": jax.random.key(1)})
        for _ in range(3):
            key, now = jax.random.split(state["key"])
            state = {"w": (state["w"][0] + jax.random.normal(now, 2), None), "key": key}
    assert np.array_equal(found["w"][0], state["w"][0])


def test_flax_modules_and_their_streams_go_on_where_they_were(tmp_path: Path) -> None:
    def train(keep: Keep, until: int) -> tuple[int, Any]:
        net = nnx.Sequential(nnx.Linear(3, 4, rngs=(rngs := nnx.Rngs(0))), nnx.BatchNorm(4, rngs=rngs))
        drop = nnx.Dropout(0.5, rngs=rngs)
        optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)
        given = {"net": net, "drop": drop, "optimizer": optimizer}

        @nnx.jit
        def step_of(net: Any, drop: Any, optimizer: Any, x: Any) -> None:
            grads = nnx.grad(lambda net, drop: jnp.mean(drop(net(x)) ** 2))(net, drop)
            optimizer.update(net, grads)

        with keep.run("nnx") as run, run.checkpoints(mk.every(steps=1)) as ckpt:
            state, start = ckpt.restore(given)
            assert state["net"] is net
            for step in range(start, until):
                step_of(net, drop, optimizer, jnp.arange(6.0).reshape(2, 3) * (step + 1))
                ckpt.step(step + 1, state)
        return start, nnx.to_pure_dict(nnx.state((net, optimizer)))

    cut, whole = mk.open(tmp_path / "cut"), mk.open(tmp_path / "whole")
    train(cut, 2)
    start, found = train(cut, 5)
    assert start == 2
    assert same(found, train(whole, 5)[1])


def test_equinox_modules_come_back_with_their_functions(tmp_path: Path) -> None:
    optimizer = optax.adam(1e-2)

    @eqx.filter_value_and_grad
    def loss_of(net: Any, x: Any, key: Any) -> Any:
        return jnp.mean(jax.vmap(net)(x + jax.random.normal(key, x.shape)) ** 2)

    def train(keep: Keep, until: int) -> tuple[int, Any]:
        net = eqx.nn.MLP(3, 1, 4, 2, key=jax.random.key(0))
        given = Loop(net, optimizer.init(eqx.filter(net, eqx.is_array)), jax.random.key(5))
        with keep.run("eqx") as run, run.checkpoints(mk.every(steps=1)) as ckpt:
            state, start = ckpt.restore(given)
            for step in range(start, until):
                key, now = jax.random.split(state.key)
                _, grads = loss_of(state.net, jnp.ones((2, 3)), now)
                updates, moments = optimizer.update(grads, state.moments)
                state = Loop(eqx.apply_updates(state.net, updates), moments, key)
                ckpt.step(step + 1, state)
        return start, state

    cut, whole = mk.open(tmp_path / "cut"), mk.open(tmp_path / "whole")
    train(cut, 2)
    start, found = train(cut, 5)
    assert (start, type(found), found.net.activation) == (2, Loop, jax.nn.relu)
    assert same(eqx.filter(found, eqx.is_inexact_array), eqx.filter(train(whole, 5)[1], eqx.is_inexact_array))


def test_named_tuples_of_torch_objects_are_filled_where_they_are(keep: Keep) -> None:
    net = torch.nn.Linear(2, 1)
    given = Loop(net, [torch.zeros(2), 3], torch.Generator().manual_seed(2))
    with keep.run("tuple") as run, run.checkpoints() as ckpt:
        state, _ = ckpt.restore(given)
        state.moments[0] += 1
        state.moments[1] = 4
        ckpt.step(1, state)
    given = Loop(net, [torch.zeros(2), 3], torch.Generator())
    with keep.run("tuple") as run, run.checkpoints() as ckpt:
        state, step = ckpt.restore(given)
    assert (step, type(state), state.net, state.moments[1]) == (1, Loop, net, 4)
    assert torch.equal(given.moments[0], torch.ones(2))
    assert given.key.initial_seed() == 2


def places(kind: str, rows: Any) -> Any:
    """An iterator over batches that goes on where a state says."""
    import grain
    import grain.python

    if kind == "grain":
        return iter(grain.MapDataset.source(rows).seed(2).shuffle().repeat().to_iter_dataset().batch(3))
    if kind == "grain loader":
        sampler = grain.python.IndexSampler(len(rows), shuffle=True, seed=2, num_epochs=None)
        return iter(grain.python.DataLoader(data_source=rows, sampler=sampler, operations=[grain.python.Batch(3)]))
    workers = int(kind.removeprefix("torchdata "))
    return StatefulDataLoader(rows, 3, shuffle=True, num_workers=workers)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's own call of torch
@pytest.mark.parametrize("kind", ["grain", "grain loader", "torchdata 0", "torchdata 2"])
@pytest.mark.parametrize("framework", ["numpy", "jax", "torch"])
def test_a_loader_in_the_state_goes_on_with_the_next_batch(kind: str, framework: str, tmp_path: Path) -> None:
    if framework == "jax" and kind.startswith("torchdata"):
        pytest.skip("objects of torch in a state of jax are refused")
    make = {"numpy": np.zeros, "jax": jnp.zeros, "torch": torch.zeros}[framework]

    def train(keep: Keep, until: int) -> list[list[int]]:
        seen = []
        with keep.run("loader", seed=4) as run, run.checkpoints(mk.every(steps=1)) as ckpt:
            state, step = ckpt.restore({"loader": places(kind, list(range(20))), "sum": make(1)})
            while step < until:
                for batch in state["loader"]:
                    seen.append(np.asarray(batch).tolist())
                    step += 1
                    ckpt.step(step, state)
                    if step == until:
                        break
        return seen

    cut, whole = mk.open(tmp_path / "cut"), mk.open(tmp_path / "whole")
    first = train(cut, 4)
    assert [*first, *train(cut, 11)] == train(whole, 11)


def test_what_cannot_be_told_apart_or_is_not_built_yet_is_refused(keep: Keep) -> None:
    with keep.run("two") as run, run.checkpoints() as ckpt:
        with pytest.raises(UsageError, match="the state has objects of jax and torch; keep each in a run of its own"):
            ckpt.restore({"a": torch.zeros(1), "b": jnp.zeros(1)})
        with pytest.raises(UsageError, match=r"Adam has no variables before it is built; optimizer.build\("):
            ckpt.restore([keras.optimizers.Adam()])


def test_keras_objects_are_kept_by_the_paths_of_their_variables(keep: Keep) -> None:
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
    optimizer = keras.optimizers.Adam()
    optimizer.build(net.trainable_variables)
    with keep.run("net") as run, run.checkpoints() as ckpt:
        state, _ = ckpt.restore({"net": net, "optimizer": optimizer})
        net.layers[0].kernel.assign([[1.0], [2.0]])
        ckpt.step(1, state)
    names = keep.snapshot("run:net@last").tensors
    assert any("head%2Fkernel" in name for name in names)
    net.layers[0].kernel.assign([[5.0], [5.0]])
    with keep.run("net") as run, run.checkpoints() as ckpt:
        _, step = ckpt.restore({"net": net, "optimizer": optimizer})
    assert step == 1
    assert np.array_equal(keras.ops.convert_to_numpy(net.layers[0].kernel), [[1.0], [2.0]])


def test_a_checkpoint_of_other_objects_changes_nothing(keep: Keep) -> None:
    with keep.run("net") as run, run.checkpoints() as ckpt:
        ckpt.restore({"net": torch.nn.Linear(2, 1)})
    other = torch.nn.Linear(3, 1)
    before = other.weight.detach().clone()
    with pytest.raises(StateMismatch, match="weight"), keep.run("net") as run, run.checkpoints() as ckpt:
        ckpt.restore({"net": other})
    assert torch.equal(before, other.weight)
    with keep.run("tree") as run:
        run.save({"weights": np.zeros(2)}, step=1, epoch=0, wait=True)
    with pytest.raises(StateMismatch, match="checkpoints of another kind"), keep.run("tree") as run:  # noqa: SIM117
        with run.checkpoints() as ckpt:
            ckpt.restore({"weights": np.zeros(2)})


def test_what_is_called_wrongly_says_how(keep: Keep) -> None:
    run = keep.run("wrong")
    with pytest.raises(UsageError, match="restore is called once, at the start of"):
        run.checkpoints().restore({})
    with pytest.raises(UsageError, match=r"checkpoint"):
        run.checkpoints(every=3)  # type: ignore[arg-type]
    with run.checkpoints() as ckpt:
        with pytest.raises(UsageError, match="call restore before the first step"):
            ckpt.step(1, {})
        with pytest.raises(UnsupportedState, match="odd"):
            ckpt.restore({"odd": object()})
        state, _ = ckpt.restore({"at": np.zeros(1)})
        with pytest.raises(UsageError, match="restore is called once"):
            ckpt.restore(state)
        ckpt.step(1, state)
        with pytest.raises(UsageError, match="step 1 was told after step 1; count the steps"):
            ckpt.step(1, state)
        with pytest.raises(UsageError, match="metrics: loss is 'low', which is no number"):
            ckpt.step(2, state, {"loss": "low"})
    run.close()
