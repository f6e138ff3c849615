"""What `modelkeep.frameworks.torch` promises."""

import copy
import math

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from modelkeep.errors import StateMismatch, UnsupportedState
from modelkeep.frameworks.torch import from_numpy, load_into, state_of, to_numpy
from modelkeep.state.compare import differences
from modelkeep.state.tree import flatten, unflatten

SMALL = [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e4m3fnuz]
SMALL += [torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]
LR = torch.optim.lr_scheduler


def through_the_store(tree):
    flat = flatten(tree)
    return unflatten(flat.structure, flat.arrays)


class Tied(nn.Module):
    """An embedding whose weight is the output's, a buffer, extra state and a list of layers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))])
        self.out = nn.Linear(4, 8)
        self.out.weight = self.embed.weight
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.seen = 0

    def get_extra_state(self):
        return {"seen": self.seen, "counts": torch.arange(3)}

    def set_extra_state(self, state):
        self.seen = state["seen"]
        assert state["counts"].dtype == torch.int64

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


def step(model, optimizer, seed):
    torch.manual_seed(seed)
    loss = nn.functional.cross_entropy(model(torch.randint(8, (16,))), torch.randint(8, (16,)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_every_bit_pattern_of_small_floats_survives(dtype):
    carrier = {1: torch.uint8, 2: torch.int16}[dtype.itemsize]
    patterns = torch.arange(2 ** (8 * dtype.itemsize), dtype=torch.int32).to(carrier).view(dtype)
    array = through_the_store(state_of({"x": patterns}))["x"]
    assert array.dtype == getattr(ml_dtypes, str(dtype).removeprefix("torch."), None) or array.dtype == np.float16
    target = torch.zeros_like(patterns)
    load_into({"x": target}, {"x": array})
    assert target.view(carrier).tolist() == patterns.view(carrier).tolist()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.zeros(0, 3),
        torch.arange(6).reshape(2, 3).T,
        torch.arange(12.0).reshape(3, 4)[:, ::2],
        torch.tensor([1 + 2j, 3 - 4j]),
        torch.tensor([1 + 2j, 3 - 4j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch.tensor([True, False]),
        torch.tensor([1, 2], dtype=torch.uint16),
        torch.tensor([float("nan"), -0.0, math.inf]).double(),
        torch.ones(2, 3).to(memory_format=torch.contiguous_format).requires_grad_(),
        torch.ones(3).expand(2, 3),
        torch.arange(4).to(torch.bfloat16)[::2],
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}-{tensor.stride()}",
)
def test_tensors_of_all_kinds_come_back_with_their_bits(tensor):
    array = to_numpy(tensor)
    again = from_numpy(array)
    assert again.dtype == tensor.dtype
    assert again.shape == tensor.shape
    assert to_numpy(again).tobytes() == array.tobytes()
    assert again.tolist() == tensor.tolist() or tensor.isnan().any()


def test_loading_writes_through_strides_and_keeps_the_tensor():
    base = torch.zeros(3, 4)
    view = base.T[::2]
    load_into([view], [np.arange(6, dtype="float32").reshape(2, 3)])
    assert view.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert base[:, 1].tolist() == [0, 0, 0]
    weight = nn.Parameter(torch.zeros(2))
    load_into({"w": weight}, {"w": np.ones(2, "float32")})
    assert weight.requires_grad
    assert weight.grad_fn is None
    assert weight.tolist() == [1, 1]


def test_a_captured_state_is_not_changed_by_training_on_nor_the_model_by_the_state():
    model = Tied()
    state = state_of(model)
    before = copy.deepcopy(state_of(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert not differences(state, before)
    owned = state_of(model, copy=True)
    load_into(model, owned)
    owned["layers"][0]["weight"][:] = 7
    assert not differences(state_of(model)["layers"], state_of(model, copy=True)["layers"])
    assert not (state_of(model)["layers"][0]["weight"] == 7).any()


def test_the_memory_of_large_copies_is_used_again_and_never_while_somebody_looks_at_it():
    weight = torch.arange(100_000, dtype=torch.float32)
    first = state_of({"w": weight})["w"]
    row = first[10:20]
    del first
    second = state_of({"w": weight + 1})["w"]
    assert row.tolist() == list(range(10, 20))
    place = second.__array_interface__["data"]
    assert second.tolist() == (weight + 1).tolist()
    del second
    assert state_of({"w": weight})["w"].__array_interface__["data"] == place
    odd = torch.arange(60_000, dtype=torch.int64).reshape(200, 300).T  # strides, and another size
    assert state_of({"w": odd})["w"].tolist() == odd.tolist()
    for dtype in (torch.bfloat16, torch.bool, torch.complex64, torch.float8_e5m2):
        large = (torch.arange(200_000) % 2).to(dtype)
        assert state_of(large).tobytes() == large.view(torch.uint8).numpy().tobytes()


def test_a_module_is_nested_by_submodule_and_tied_weights_are_one_array():
    state = state_of(Tied())
    assert list(flatten(state).arrays) == [
        *("_extra_state/counts", "embed/weight", "layers/0/bias", "layers/0/weight"),
        *("layers/1/0/bias", "layers/1/0/weight", "layers/1/1/bias", "layers/1/1/num_batches_tracked"),
        *("layers/1/1/running_mean", "layers/1/1/running_var", "layers/1/1/weight", "out/bias", "out/weight"),
    ]
    assert state["embed"]["weight"] is state["out"]["weight"]


def test_tied_weights_with_two_values_are_refused():
    model = Tied()
    state = state_of(model)
    state["out"]["weight"] = state["out"]["weight"] + 1
    with pytest.raises(StateMismatch, match="out/weight: is the same as embed/weight, found other values"):
        load_into(model, state)


def test_a_module_that_does_not_fit_is_not_changed():
    model = Tied()
    before = state_of(model)
    state = state_of(model, copy=True)
    state["layers"][0]["weight"] = np.zeros((4, 5), "float32")
    state["layers"][1][0]["bias"] = state["layers"][1][0]["bias"].astype("float64")
    del state["out"]["bias"]
    state["embed"]["more"] = np.zeros(1)
    state["layers"][1][1]["weight"] += 1
    with pytest.raises(StateMismatch) as error:
        load_into({"net": model}, {"net": state})
    assert str(error.value).splitlines()[1:] == [
        "  net/layers/0/weight: wanted float32 [4, 4], found float32 [4, 5]",
        "  net/layers/1/0/bias: wanted float32 [4], found float64 [4]",
        "  net/out/bias: wanted float32 [8], not in the state",
        "  net/embed/more: not wanted, found float64 [1]",
    ]
    assert not differences(state_of(model), before)


def test_keys_that_do_not_nest_stay_flat():
    class Odd(nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "weight.scale"] = torch.ones(1)

        def _load_from_state_dict(self, state_dict, prefix, *rest):
            assert state_dict.pop(prefix + "weight.scale").tolist() == [1]
            super()._load_from_state_dict(state_dict, prefix, *rest)

    state = state_of(Odd(2, 2))
    assert sorted(state) == ["bias", "weight", "weight.scale"]
    fresh = Odd(2, 2)
    load_into(fresh, state)
    assert not differences(state_of(fresh), state)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW-lr-tensor": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "Adadelta": torch.optim.Adadelta,
    "Adamax": torch.optim.Adamax,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "ASGD": torch.optim.ASGD,
    "Rprop": torch.optim.Rprop,
    "Adafactor": torch.optim.Adafactor,
    "LBFGS": lambda p: torch.optim.LBFGS(p, max_iter=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_it_would_have(name):
    def make():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
        return {"model": model, "optimizer": OPTIMIZERS[name](model.parameters())}

    def train(objects, seed):
        torch.manual_seed(seed)
        x, y = torch.randn(8, 4), torch.randn(8, 2)

        def closure():
            objects["optimizer"].zero_grad()
            loss = nn.functional.mse_loss(objects["model"](x), y)
            loss.backward()
            return loss

        for _ in range(3):
            objects["optimizer"].step(closure)

    old, new = make(), make()
    train(old, 2)
    state = through_the_store(state_of(old))
    load_into(new, state)
    assert not differences(state_of(new), state)
    train(old, 3)
    train(new, 3)
    assert not differences(state_of(new), state_of(old))


def test_parameter_ids_stay_ints_and_betas_a_tuple():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = through_the_store(state_of(optimizer))
    assert list(state["state"]) == [0, 1]
    assert state["param_groups"][0]["params"] == [0, 1]
    assert state["param_groups"][0]["betas"] == (0.9, 0.999)


def test_slots_keep_their_dtype_when_the_weights_have_another():
    def make():
        weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        return weight, optimizer

    weight, optimizer = make()
    optimizer.state[weight]["momentum_buffer"] = torch.tensor([1.2345678, math.pi, 1e-7])
    state = state_of(optimizer)
    fresh, other = make()
    load_into(other, state)
    assert other.state[fresh]["momentum_buffer"].dtype == torch.float32
    assert not differences(state_of(other), state)


def test_an_optimizer_of_other_parameters_is_refused():
    def optimizer(*shapes):
        weights = [nn.Parameter(torch.ones(shape)) for shape in shapes]
        made = torch.optim.Adam(weights)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        return made

    trained = optimizer((2,), (3,))
    trained.step()
    state = state_of(trained)
    with pytest.raises(StateMismatch, match=r"param_groups: wanted groups of \[1\] parameters, found \[2\]"):
        load_into(optimizer((2,)), state)
    other = optimizer((2,), (4,))
    with pytest.raises(StateMismatch, match=r"state/1/exp_avg: wanted float32 \[4\], found float32 \[3\]"):
        load_into(other, state)
    assert not other.state
    with pytest.raises(StateMismatch, match="wanted the state of a Adam"):
        load_into(other, {"lr": 1})


SCHEDULERS = {
    "StepLR": lambda o: LR.StepLR(o, 2),
    "MultiStepLR": lambda o: LR.MultiStepLR(o, [2, 4]),
    "CosineWarm": lambda o: LR.CosineAnnealingWarmRestarts(o, 3),
    "OneCycle": lambda o: LR.OneCycleLR(o, 0.1, total_steps=20),
    "Cyclic": lambda o: LR.CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=False),
    "Lambda": lambda o: LR.LambdaLR(o, lambda n: 0.9**n),
    "Sequential": lambda o: LR.SequentialLR(o, [LR.LinearLR(o, 0.1), LR.ExponentialLR(o, 0.9)], [3]),
    "Chained": lambda o: LR.ChainedScheduler([LR.ConstantLR(o), LR.MultiStepLR(o, [2])]),
    "Plateau": lambda o: LR.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_go_on(name):
    def make():
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        return optimizer, SCHEDULERS[name](optimizer)

    def rates_of(pair, steps):
        optimizer, scheduler = pair
        rates = []
        for _ in range(steps):
            optimizer.step()
            scheduler.step(1.0) if name == "Plateau" else scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    old = make()
    rates_of(old, 3)
    state = through_the_store(state_of(list(old)))
    new = make()
    load_into(list(new), state)
    assert not differences(state_of(list(new)), state)
    assert [type(value) for value in vars(new[1]).values()] == [type(value) for value in vars(old[1]).values()]
    assert rates_of(new, 6) == rates_of(old, 6)


def test_a_scheduler_of_another_kind_is_refused():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    state = state_of(LR.StepLR(optimizer, 2))
    with pytest.raises(StateMismatch, match="step_size: not wanted by a ExponentialLR, found a value of type int"):
        load_into(LR.ExponentialLR(optimizer, 0.9), state)


def test_a_gradient_scaler_goes_on():
    def make():
        return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)

    weight = nn.Parameter(torch.ones(1))
    optimizer, scaler = torch.optim.SGD([weight], lr=0.1), make()

    def step(scaler):
        scaler.scale((weight * 1.0).sum()).backward()
        scaler.step(optimizer)
        scaler.update()

    step(scaler), step(scaler)
    fresh = make()
    load_into(fresh, through_the_store(state_of(scaler)))
    step(fresh)
    assert fresh.get_scale() == 2048.0
    with pytest.raises(StateMismatch, match="scale: wanted by a GradScaler"):
        load_into(make(), state_of(torch.amp.GradScaler("cpu", enabled=False)))


def test_a_generator_draws_on_where_it_was():
    generator = torch.Generator().manual_seed(5)
    torch.randn(3, generator=generator)
    fresh = torch.Generator()
    load_into({"g": fresh}, through_the_store(state_of({"g": generator})))
    assert torch.randn(5, generator=fresh).tolist() == torch.randn(5, generator=generator).tolist()
    with pytest.raises(StateMismatch, match="g/state"):
        load_into({"g": fresh}, {"g": {"device": "cpu", "state": np.zeros(3, "uint8")}})


def test_wrappers_are_looked_through():
    model = nn.Linear(2, 2)
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        assert sorted(state_of(wrapped)) == ["bias", "weight"]
        load_into(wrapped, state_of(model))


def test_one_tree_holds_all_of_a_training_and_loads_all_or_nothing():
    def make():
        torch.manual_seed(0)
        model = Tied()
        optimizer = torch.optim.AdamW(model.parameters())
        return {
            "model": model,
            "optimizer": optimizer,
            "schedule": LR.ExponentialLR(optimizer, 0.9),
            "rng": np.random.default_rng(1),
            "best": None,
            "epoch": 0,
            "history": [[1, 2.5]],
        }

    old, new = make(), make()
    for seed in range(3):
        step(old["model"], old["optimizer"], seed)
        old["schedule"].step()
    old["model"].seen, old["best"], old["epoch"] = 4, 0.25, 3
    old["rng"].random(3)
    state = through_the_store(state_of(old))
    broken = {**state, "epoch": np.zeros(2)}
    before = state_of(new)
    with pytest.raises(StateMismatch, match="epoch: wanted a value of type int"):
        load_into(new, broken)
    assert not differences(state_of(new), before)
    load_into(new, state)
    assert not differences(state_of(new), state)
    assert (new["model"].seen, new["best"], new["epoch"]) == (4, 0.25, 3)
    assert step(new["model"], new["optimizer"], 9) == step(old["model"], old["optimizer"], 9)


REFUSED = {
    "sparse": (lambda: torch.eye(2).to_sparse(), "to_dense"),
    "meta": (lambda: torch.zeros(2, device="meta"), "to_empty"),
    "complex32": (lambda: torch.zeros(2, dtype=torch.complex32), "convert it first"),
    "lazy": (lambda: nn.LazyLinear(3), "run the module once"),
    "object": (object, "pass tensors"),
    "class": (lambda: torch.optim.SGD, "pass tensors"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning", "ignore:ComplexHalf:UserWarning")
def test_what_cannot_be_kept_is_named_with_the_way_out(name):
    make, way_out = REFUSED[name]
    with pytest.raises(UnsupportedState, match=rf"^a/0.*{way_out}"):
        state_of({"a": [make()]})


def test_an_expanded_tensor_is_not_written_into():
    with pytest.raises(StateMismatch, match="expanded"):
        load_into({"x": torch.zeros(1).expand(3)}, {"x": np.ones(3, "float32")})
