"""What `modelkeep.frameworks.keras` promises, on the backend of this process; `test_keras.py` runs it on each."""

import sys
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest

from modelkeep.errors import StateMismatch, UnsupportedState, UsageError
from modelkeep.frameworks.keras import load_into, state_of, variables_of
from modelkeep.frameworks.mismatch import leaves, show
from modelkeep.model.contents import mapped
from modelkeep.state.memory import aligned

sys.path.insert(0, str(Path(__file__).parent))

import keras_models

BACKEND = keras.backend.backend()


def paths(tree):
    return [show(path) for path, leaf in leaves(tree).items() if leaf is not None]


def named(model, part):
    return variables_of(model)[part] or {}


def bits(tree):
    arrays = {path: leaf for path, leaf in leaves(tree).items() if leaf is not None}
    return {show(path): (leaf.dtype, leaf.shape, leaf.tobytes()) for path, leaf in arrays.items()}


def scramble(model, seed=1):
    rng = np.random.default_rng(seed)
    for part in ("model", "optimizer", "metrics"):
        for variable in named(model, part).values():
            shape = tuple(variable.shape)
            variable.assign(keras.ops.cast(rng.integers(0, 5, shape).astype("float32"), variable.dtype))


@pytest.mark.parametrize("name", keras_models.ALL)
def test_every_variable_is_in_the_state_exactly_once(name):
    model = keras_models.ALL[name]()
    placed = [id(variable) for variable in named(model, "model").values()]
    assert len(placed) == len(set(placed))
    assert set(placed) == {id(variable) for variable in model.variables}


@pytest.mark.parametrize("name", keras_models.ALL)
def test_names_do_not_depend_on_what_the_process_made_before(name):
    first = paths(state_of(keras_models.ALL[name]()))
    keras_models.use_up_names()
    assert paths(state_of(keras_models.ALL[name]())) == first


@pytest.mark.parametrize("name", keras_models.ALL)
def test_a_state_comes_back_bit_for_bit(name):
    model = keras_models.ALL[name]()
    if name in keras_models.TRAINABLE:
        model.optimizer.build(model.trainable_variables)
    scramble(model, 1)
    state = state_of(model, copy=True)
    scramble(model, 2)
    assert bits(state_of(model)) != bits(state)
    load_into(model, state)
    assert bits(state_of(model)) == bits(state)


@pytest.mark.parametrize("name", keras_models.TRAINABLE)
def test_training_goes_on_in_a_new_model_as_in_the_old_one(name):
    old = keras_models.TRAINABLE[name]()
    keras_models.train(old)
    state = state_of(old, copy=True)
    new = keras_models.TRAINABLE[name]()
    if BACKEND == "torch":
        keras_models.train(new)  # its first `fit` draws from torch's own generator, as dropout does on this backend
    load_into(new, state, parts=("model", "optimizer"))
    for model in (old, new):
        if BACKEND == "torch":
            keras.utils.set_random_seed(1)
        keras_models.train(model, seed=2)
    assert bits(state_of(new)) == bits(state_of(old))


@pytest.mark.parametrize("name", ["sequential", "embedded"])
@pytest.mark.parametrize("compiled", [False, True] if BACKEND == "tensorflow" else [None], ids=str)
def test_what_is_given_away_is_shared_where_it_can_be_and_never_written_to(name, compiled):
    model = keras_models.TRAINABLE[name]()
    if compiled is not None:
        model.jit_compile = compiled
    keras_models.train(model)
    given = mapped(state_of(model, copy=True), in_aligned_memory)
    before = bits(given)
    load_into(model, given, given=True)
    assert bits(state_of(model)) == before
    _, array = max(leaves(given["model"]).items(), key=lambda item: item[1].nbytes)
    shared = [np.shares_memory(array, one) for one in leaves(state_of(model)["model"]).values()]
    assert sum(shared) == (0 if BACKEND == "torch" else 1)
    keras_models.train(model, seed=2)
    assert bits(given) == before
    assert bits(state_of(model)) != before


def in_aligned_memory(array):
    made = aligned(array.shape, array.dtype)
    made[...] = array
    return made


def test_names_follow_the_layers_and_keep_what_a_person_called_them():
    names = paths(state_of(keras_models.functional())["model"])
    assert names == [
        *("dense/kernel", "dense/bias"),
        *("batch_normalization/gamma", "batch_normalization/beta"),
        *("batch_normalization/moving_mean", "batch_normalization/moving_variance"),
        *("named/kernel", "named/bias", "dropout/seed_generator", "dense_1/kernel", "dense_1/bias"),
    ]
    names = paths(state_of(keras_models.subclassed())["model"])
    assert names == [
        *("scale", "variable", "seed_generator", "dense/kernel", "dense/bias"),
        *("dense_1/kernel", "dense_1/bias", "third/kernel", "third/bias", "dense_2/kernel", "dense_2/bias"),
    ]
    names = paths(state_of(keras_models.recurrent())["model"])
    assert "bidirectional/forward_lstm/lstm_cell/kernel" in names
    assert "time_distributed/dense/kernel" in names


def test_two_layers_of_the_same_given_name_are_told_apart():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.pair = [keras.layers.Dense(1, name="twin"), keras.layers.Dense(1, name="twin")]
            for layer in self.pair:
                layer.build((None, 2))

        def call(self, x):
            return self.pair[0](x) + self.pair[1](x)

    assert paths(state_of(Twins())["model"]) == ["twin/kernel", "twin/bias", "twin_1/kernel", "twin_1/bias"]


def test_a_clone_has_the_names_of_its_original():
    for build in (keras_models.functional, keras_models.sequential, keras_models.recurrent, keras_models.attention):
        model = build()
        clone = keras.models.clone_model(model)
        assert paths(state_of(clone)["model"]) == paths(state_of(model)["model"])


def test_metrics_are_named_and_those_of_two_outputs_are_told_apart():
    model = keras_models.two_headed()
    x, y = keras_models.data()
    model.fit(x, [y, y], verbose=0)
    assert list(state_of(model)["metrics"]) == ["loss", "mae", "mae_1", "mean_squared_error", "left_loss", "right_loss"]
    model = keras_models.subclassed()
    keras_models.train(model)
    assert list(state_of(model)["metrics"]) == ["loss", "mae", "norm"]
    assert float(state_of(model)["metrics"]["loss"]["count"]) == 16


def test_a_state_that_does_not_fit_changes_nothing_and_says_where():
    model = keras_models.functional()
    keras_models.train(model)
    before = state_of(model, copy=True)
    state = state_of(model, copy=True)
    state["model"]["dense"]["kernel"] = np.zeros((6, 7), "float32")
    state["model"]["named"]["bias"] = np.zeros((4,), "float64")
    del state["model"]["dense_1"]["bias"]
    state["optimizer"]["slots"]["other"] = {"dense": np.zeros(2)}
    state["model"]["dropout"]["seed_generator"] = [1, 2]
    for leaf in ("gamma", "beta"):
        state["model"]["batch_normalization"][leaf] += 1
    with pytest.raises(StateMismatch) as error:
        load_into(model, state)
    text = str(error.value)
    assert "model/dense/kernel: wanted float32 [6, 6], found float32 [6, 7]" in text
    assert "model/named/bias: wanted float32 [4], found float64 [4]" in text
    assert "model/dense_1/bias: wanted float32 [2], not in the state" in text
    assert "optimizer/slots/other/dense: not wanted, found float64 [2]" in text
    assert "model/dropout/seed_generator: wanted" in text
    assert bits(state_of(model)) == bits(before)


def test_an_integer_that_the_backend_cannot_hold_is_refused():
    model = keras_models.functional()
    state = state_of(model, copy=True)
    state["optimizer"]["iterations"] = np.array(7, "int64")
    state["model"]["dropout"]["seed_generator"] = np.array([5, 9], "uint64")
    load_into(model, state)
    assert int(model.optimizer.iterations) == 7
    state["optimizer"]["iterations"] = np.array(2**63, "uint64")
    with pytest.raises(StateMismatch, match="cannot hold"):
        load_into(model, state)


def test_parts_are_loaded_alone_and_unknown_parts_are_refused():
    model, other = keras_models.functional(), keras_models.functional()
    keras_models.train(model)
    load_into(other, state_of(model), parts=("model",))
    assert bits(state_of(other)["model"]) == bits(state_of(model)["model"])
    assert int(other.optimizer.iterations) == 0
    with pytest.raises(UsageError, match="weights"):
        load_into(other, state_of(model), parts=("weights",))


def test_a_model_that_was_not_compiled_has_no_optimizer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    state = state_of(model, copy=True)
    assert state["optimizer"] is None
    assert state["metrics"] == {}
    load_into(model, state)


OPTIMIZERS = sorted(
    name
    for name, kind in vars(keras.optimizers).items()
    if isinstance(kind, type) and issubclass(kind, keras.optimizers.Optimizer)
    if name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_where_it_was(name):
    kind = getattr(keras.optimizers, name)
    options: dict[str, Any] = {
        "SGD": {"momentum": 0.9},
        "RMSprop": {"momentum": 0.9, "centered": True},
        "Adam": {"amsgrad": True},
    }
    check_optimizer(lambda: kind(**options.get(name, {})))


@pytest.mark.parametrize(
    "options", [{"use_ema": True, "ema_overwrite_frequency": 3}, {"gradient_accumulation_steps": 3}], ids=str
)
def test_averages_and_accumulators_go_on(options):
    state = check_optimizer(lambda: keras.optimizers.SGD(0.1, **options))
    slot = "average" if "use_ema" in options else "gradient_accumulator"
    assert paths(state["optimizer"]["slots"][slot])[:2] == ["dense/kernel", "dense/bias"]


def test_wrapped_optimizers_go_on():
    def scaled():
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), dynamic_growth_steps=3)

    state = check_optimizer(scaled)
    assert float(state["optimizer"]["dynamic_scale"]) == 2.0**16
    assert int(state["optimizer"]["step_counter"]) == 1
    assert int(state["optimizer"]["inner"]["iterations"]) == 4


def test_the_optimizers_of_a_multi_optimizer_go_on_each_with_its_variables():
    def by_layer():
        first = keras.optimizers.Adam(0.01)
        second = keras.optimizers.SGD(0.1, momentum=0.9)
        return keras.optimizers.MultiOptimizer(lambda variable: first if variable.shape[0] == 6 else second)

    state = check_optimizer(by_layer)
    assert paths(state["optimizer"]["inner"][0]["slots"]["velocity"]) == ["dense/kernel"]
    assert paths(state["optimizer"]["inner"][1]["slots"]["momentum"])[0] == "dense/bias"


def two_networks():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="one"), keras.layers.Dense(1, name="two")])
    model.compile("sgd", "mse")
    model.critic_optimizer = keras.optimizers.Adam(0.5)
    return model


def test_optimizers_in_lists_and_in_models_inside_go_on():
    def build():
        inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="one")], name="inner")
        inner.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        model = keras.Sequential([keras.Input((3,)), inner, keras.layers.Dense(1, name="two")])
        model.compile("adam", "mse")
        model.mine = [keras.optimizers.Adam(0.5), {"no": "optimizer"}]
        model.named = {"critic": keras.optimizers.SGD(0.2, momentum=0.9)}
        return model, inner

    model, inner = build()
    inner.optimizer.build(inner.trainable_variables)
    model.mine[0].build(model.get_layer("two").trainable_variables)
    model.mine[0].iterations.assign(7)
    state = state_of(model, copy=True)
    assert sorted(state["optimizer"]["others"]) == ["layers.2.optimizer", "mine.0", "named.critic"]
    fresh, inside = build()
    load_into(fresh, state)
    assert int(fresh.mine[0].iterations) == 7
    assert inside.optimizer.built
    assert "optimizer/others/layers.2.optimizer/slots/momentum/inner/one/kernel" in paths(state)


def test_optimizers_beside_that_of_compile_go_on_with_the_variables_that_they_train():
    model = two_networks()
    assert "optimizer/others/critic_optimizer/iterations" in paths(state_of(model))
    model.critic_optimizer.build(model.get_layer("two").trainable_variables)
    scramble(model)
    state = state_of(model, copy=True)
    assert "optimizer/others/critic_optimizer/slots/momentum/two/kernel" in paths(state)
    fresh = two_networks()  # its step would build them
    load_into(fresh, state)
    assert fresh.critic_optimizer.built
    assert bits(state_of(fresh)) == bits(state)
    other = two_networks()
    del other.critic_optimizer
    with pytest.raises(StateMismatch, match="critic_optimizer"):
        load_into(other, state)


def test_what_a_stateful_recurrent_layer_carries_is_in_the_state():
    def made():
        inputs = keras.Input(batch_shape=(2, 4, 3))
        both = keras.layers.Bidirectional(keras.layers.LSTM(5, stateful=True, return_sequences=True))(inputs)
        return keras.Model(inputs, keras.layers.GRU(3, stateful=True)(both))

    model = made()
    model(np.ones((2, 4, 3), "float32"))
    state = state_of(model, copy=True)
    assert [one for one in paths(state) if "/state" in one] == [
        "model/bidirectional/forward_lstm/state", "model/bidirectional/forward_lstm/state_1",
        "model/bidirectional/backward_lstm/state", "model/bidirectional/backward_lstm/state_1", "model/gru/state",
    ]  # fmt: skip
    assert np.abs(state["model"]["gru"]["state"]).sum() > 0
    fresh = made()
    load_into(fresh, state)
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    answers = [keras.ops.convert_to_numpy(one(x)) for one in (model, fresh)]
    assert np.array_equal(*answers)


def test_a_schedule_needs_no_learning_rate_variable():
    state = check_optimizer(lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)))
    assert "learning_rate" not in state["optimizer"]


def check_optimizer(make):
    def build():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3), keras.layers.Dense(2)])
        return keras_models.compiled(model, make(), run_eagerly=BACKEND == "tensorflow")  # to trace takes longer

    old, new = build(), build()
    keras_models.train(old)
    state = state_of(old, copy=True)
    assert {id(variable) for variable in named(old, "optimizer").values()} == {
        id(variable) for variable in old.optimizer.variables
    }
    assert "variables" not in state["optimizer"]
    load_into(new, state, parts=("model", "optimizer"))
    if BACKEND == "jax" and getattr(old.optimizer, "use_ema", False):
        # Keras itself cannot `fit` twice here: weights and averages are one buffer, donated twice. Loading parts them.
        load_into(old, state, parts=("model", "optimizer"))
    keras_models.train(old, seed=2)
    keras_models.train(new, seed=2)
    assert bits(state_of(new)) == bits(state_of(old))
    return state


def test_slots_carry_the_path_of_their_variable():
    model = keras_models.sequential()
    keras_models.train(model)
    slots = state_of(model)["optimizer"]["slots"]
    assert sorted(slots) == ["momentum", "velocity"]
    trained = [path for path, v in named(model, "model").items() if v.trainable]
    assert list(leaves(slots["momentum"])) == trained


def test_a_variable_of_an_optimizer_that_belongs_to_nothing_is_kept_by_position():
    class Odd(keras.optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            self.extra = {"a": self.add_variable((2,), name="a"), "b": self.add_variable((3,), name="b")}

    model = keras_models.compiled(keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)]), Odd(0.1))
    keras_models.train(model)
    assert [leaf.shape for leaf in state_of(model)["optimizer"]["variables"].values()] == [(2,), (3,)]


def test_a_captured_state_is_not_changed_by_training_on():
    model = keras_models.functional()
    keras_models.train(model)
    views = state_of(model)
    before = bits(views)
    keras_models.train(model, seed=5)
    scramble(model)
    assert bits(views) == before


def test_an_array_that_was_loaded_may_be_reused():
    model = keras_models.functional()
    state = state_of(model, copy=True)
    load_into(model, state)
    before = bits(state)
    for leaf in leaves(state).values():
        leaf[...] = 0
    assert bits(state_of(model)) == before


class At(keras.callbacks.Callback):
    """Calls a function after one batch, with a model that Keras has not brought up to date (as ``self.model`` is)."""

    def __init__(self, batch, trained, action):
        super().__init__()
        self.batch, self.trained, self.action = batch, trained, action
        self.result: Any = None

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            self.result = self.action(self.trained)


def test_in_the_middle_of_fit_the_values_are_those_of_the_moment():
    seen, plain = keras_models.sequential(), keras_models.sequential()
    last, middle = At(3, seen, lambda model: state_of(model, copy=True)), At(1, seen, state_of)
    load_into(plain, state_of(seen))
    keras_models.train(seen, callbacks=[middle, last])
    assert bits(last.result) == bits(state_of(seen))
    assert int(middle.result["optimizer"]["iterations"]) == 2
    assert int(middle.result["metrics"]["loss"]["count"]) == 8
    keras_models.train(plain)
    assert bits(state_of(plain)) == bits(state_of(seen))


def test_a_state_may_be_loaded_in_the_middle_of_fit():
    model = keras_models.sequential()
    keras_models.train(model)
    keep = At(1, model, lambda trained: state_of(trained, copy=True))
    back = At(3, model, lambda trained: load_into(trained, keep.result))
    keras_models.train(model, callbacks=[keep, back])
    assert bits(state_of(model)) == bits(keep.result)


def zeros(shape, dtype):
    return keras.ops.cast(keras.ops.zeros(shape, "float32"), dtype)  # tensorflow makes no float8 zeros itself


class Bits(keras.layers.Layer):
    """A layer that only holds a variable."""

    def __init__(self, shape, dtype):
        super().__init__()
        self.held = self.add_weight(shape=shape, dtype=dtype, initializer=zeros, trainable=False, name="held")

    def call(self, x):
        return x


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_every_bit_pattern_of_small_floats_survives(dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    carrier = {1: np.uint8, 2: np.uint16}[kind.itemsize]
    patterns = np.arange(2 ** (8 * kind.itemsize), dtype=carrier).view(kind).reshape(2, -1)
    model = keras.Sequential([keras.Input((2,)), Bits(patterns.shape, dtype)])
    load_into(model, {"model": {"bits": {"held": patterns}}, "optimizer": None, "metrics": {}})
    found = state_of(model)["model"]["bits"]["held"]
    assert found.dtype == kind
    assert found.view(carrier).tolist() == patterns.view(carrier).tolist()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "uint32", "float64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_other_dtypes_and_shapes_survive(dtype, shape):
    model = keras.Sequential([keras.Input((2,)), Bits(shape, dtype)])
    held = state_of(model, copy=True)["model"]["bits"]["held"]
    value = np.random.default_rng(0).integers(0, 2, shape).astype(held.dtype)
    load_into(model, {"model": {"bits": {"held": value}}, "metrics": {}})
    assert state_of(model)["model"]["bits"]["held"].tolist() == value.tolist()


def test_a_normalization_computes_with_what_was_loaded():
    adapted = keras_models.normalized()
    fresh = keras_models.compiled(
        keras.Sequential([keras.Input((6,)), keras.layers.Normalization(), keras.layers.Dense(2)])
    )
    load_into(fresh, state_of(adapted))
    x, _ = keras_models.data()
    assert (fresh.predict(x, verbose=0) == adapted.predict(x, verbose=0)).all()


def test_a_variable_that_nobody_holds_is_an_error_that_names_it():
    secret = keras.Variable(np.ones(2, "float32"), name="secret")

    class Hidden(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = keras.layers.Dense(1)
            self.out.build((None, 2))

        @property
        def variables(self):
            return [*super().variables, secret]

    with pytest.raises(UnsupportedState, match="secret"):
        state_of(Hidden())


def test_an_optimizer_state_of_another_kind_is_refused():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    keras_models.train(keras_models.compiled(model))
    other = keras_models.compiled(keras.models.clone_model(model), keras.optimizers.SGD(0.1))
    with pytest.raises(StateMismatch, match="optimizer/slots/velocity/dense/kernel: not wanted"):
        load_into(other, state_of(model), parts=("model", "optimizer"))


@pytest.mark.skipif(BACKEND != "torch", reason="wraps torch modules")
def test_a_wrapped_torch_module_keeps_its_buffers_and_names():
    import torch

    def build():
        module = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4))
        model = keras.Sequential(
            [keras.layers.TorchModuleWrapper(module, output_shape=(None, 4)), keras.layers.Dense(2)]
        )
        model(np.zeros((2, 6), "float32"))
        return keras_models.compiled(model)

    old, new = build(), build()
    keras_models.train(old)
    state = state_of(old, copy=True)
    assert "0.weight" in state["model"]["torch_module_wrapper"]
    assert int(state["model"]["torch_module_wrapper"]["1.num_batches_tracked"]) == 5
    load_into(new, state, parts=("model", "optimizer"))
    assert bits(state_of(new)["model"]) == bits(state["model"])
