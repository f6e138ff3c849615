"""A transfer loads what is certainly meant, says everything else, and changes nothing when it raises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import torch

from modelkeep import Rows, transfer
from modelkeep.errors import NotFound, StateMismatch, UsageError
from modelkeep.frameworks import keras as door
from modelkeep.importers import open_weights
from modelkeep.state import flatten

HERE = Path(__file__).parent
layers = keras.layers


def sequential(shape: tuple[int | None, ...], *inside: keras.Layer) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *inside])


def held(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in flatten(door.state_of(model, copy=True)["model"]).arrays.items()}


def tensors(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def names(entries) -> list[str]:
    return [entry.path or entry.sources[0] for entry in entries]


def head_and_body(classes: int, hidden: int = 6) -> keras.Model:
    return sequential((4,), layers.Dense(hidden, "relu", name="body"), layers.Dense(classes, name="head"))


# ----------------------------------------------------------------------------------------------- by name, or not at all


def test_a_model_takes_all_weights_of_its_twin_bit_for_bit():
    old, new = (sequential((4,), layers.Dense(5), layers.Dropout(0.5), layers.BatchNormalization()) for _ in range(2))
    report = transfer(new, held(old))
    assert len(report.loaded) == 6
    assert not report.missing
    for one, other in zip(old.weights, new.weights, strict=True):
        if "seed" not in one.path:
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_swapped_layers_of_one_shape_go_where_their_names_say():
    old = sequential((4,), layers.Dense(4, name="first"), layers.Dense(4, name="second"))
    new = sequential((4,), layers.Dense(4, name="second"), layers.Dense(4, name="first"))
    transfer(new, held(old))
    assert same(held(old), {name: held(new)[name] for name in held(old)})


def test_layers_of_one_shape_under_new_names_are_not_loaded_by_position():
    old = sequential((4,), layers.Dense(4, name="a"), layers.Dense(4, name="b"))
    new = sequential((4,), layers.Dense(4, name="c"), layers.Dense(4, name="d"))
    before = held(new)
    with pytest.raises(StateMismatch, match=r"c could be a and b of the source, as d: say which with rename"):
        transfer(new, held(old))
    assert same(before, held(new))
    report = transfer(new, held(old), rename={"a": "d", "b": "c"})
    assert len(report.loaded) == 4
    assert held(new)["d/kernel"].tobytes() == held(old)["a/kernel"].tobytes()


def test_a_shallower_model_does_not_take_the_first_layers_because_they_are_numbered_alike():
    old = sequential((4,), layers.Dense(4), layers.Dense(4), layers.Dense(2))
    new = sequential((4,), layers.Dense(4), layers.Dense(2))
    before = held(new)
    with pytest.raises(StateMismatch, match=r"dense/kernel.*dense could be dense and dense_1 of the source"):
        transfer(new, held(old))
    assert same(before, held(new))
    report = transfer(new, held(old), partial=True)
    assert names(report.missing) == ["dense/kernel", "dense/bias"]
    assert [entry.note for entry in report.loaded] == ["by structure"] * 2
    assert {name for entry in report.loaded for name in entry.sources} == {"dense_2/kernel", "dense_2/bias"}
    assert names(report.unused) == ["dense/bias", "dense/kernel", "dense_1/bias", "dense_1/kernel"]


def test_numbers_that_agree_on_both_sides_are_taken_and_marked_as_numbers():
    old, new = (sequential((4,), layers.Dense(4), layers.Dense(4)) for _ in range(2))
    assert {entry.note for entry in transfer(new, held(old)).loaded} == {"by number"}


def test_the_keras_file_of_a_swapped_model_is_refused_where_keras_loads_it(tmp_path):
    old = sequential((4,), layers.Dense(4, name="first"), layers.Dense(4, name="second"))
    new = sequential((4,), layers.Dense(4, name="second"), layers.Dense(4, name="first"))
    old.save_weights(tmp_path / "w.weights.h5")
    before = held(new)
    with pytest.raises(StateMismatch, match="could be dense and dense_1"):
        transfer(new, dict(open_weights(tmp_path / "w.weights.h5").model()))
    assert same(before, held(new))
    new.load_weights(tmp_path / "w.weights.h5")
    assert held(new)["second/kernel"].tobytes() == held(old)["first/kernel"].tobytes()


def test_the_numbered_variables_of_a_keras_file_find_their_layers(tmp_path):
    def make() -> keras.Model:
        inside = layers.Embedding(9, 8), layers.LSTM(8, return_sequences=True), layers.LayerNormalization()
        inputs = keras.Input((5,))
        x = inputs
        for layer in inside:
            x = layer(x)
        x = layers.MultiHeadAttention(2, 4)(x, x)
        return keras.Model(inputs, layers.Dense(3)(x))

    old, new = make(), make()
    old.save_weights(tmp_path / "w.weights.h5")
    report = transfer(new, dict(open_weights(tmp_path / "w.weights.h5").model()))
    assert len(report.loaded) == 16
    x = np.arange(10).reshape(2, 5) % 9
    assert np.array_equal(old.predict(x, verbose=0), new.predict(x, verbose=0))


def test_a_layer_under_a_new_name_is_found_where_only_one_fits():
    old = sequential((4,), layers.Dense(6, name="encoder"), layers.Dense(3, name="classes"))
    report = transfer(head_and_body(3), held(old))
    assert {entry.path: (entry.sources[0], entry.note) for entry in report.loaded} == {
        "body/kernel": ("encoder/kernel", "by structure"),
        "body/bias": ("encoder/bias", "by structure"),
        "head/kernel": ("classes/kernel", "by structure"),
        "head/bias": ("classes/bias", "by structure"),
    }


def test_structure_stays_within_matching_parents():
    inner = sequential((4,), layers.Dense(6, name="deep"))
    inner.name = "backbone"
    source = {"elsewhere/a/kernel": np.ones((4, 6), "f4"), "elsewhere/a/bias": np.ones(6, "f4")}
    source |= {"elsewhere/b": np.ones(1, "f4")}
    with pytest.raises(StateMismatch, match="not in the source"):
        transfer(sequential((4,), inner), source)


# ------------------------------------------------------------------------------------------ what is wrong is not loaded


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_and_nothing_is_changed(bad):
    old, new = head_and_body(3), head_and_body(3)
    source = held(old)
    source["body/kernel"][1, 2] = bad
    before = held(new)
    with pytest.raises(StateMismatch, match=r"body/kernel: .*holds NaN or infinite values"):
        transfer(new, source)
    assert same(before, held(new))
    report = transfer(new, source, partial=True)
    assert names(report.refused) == ["body/kernel"]
    assert names(report.missing) == ["body/bias"]  # half of a layer is of no use
    assert names(report.loaded) == ["head/kernel", "head/bias"]
    assert held(new)["body/bias"].tobytes() == before["body/bias"].tobytes()


def test_another_shape_under_the_same_name_is_a_mismatch_with_both_shapes():
    new = head_and_body(5)
    with pytest.raises(StateMismatch, match=r"head/kernel: wanted float32 \[6, 5\], found float32 \[6, 3\]"):
        transfer(new, held(head_and_body(3)))
    report = transfer(new, held(head_and_body(3)), partial=True)
    assert [(entry.wanted, entry.found) for entry in report.mismatched] == [
        ("float32 [6, 5]", "float32 [6, 3]"),
        ("float32 [5]", "float32 [3]"),
    ]


def test_the_head_is_replaced_with_one_pattern():
    old, new = head_and_body(3), head_and_body(5)
    before = held(new)
    report = transfer(new, held(old), skip=["head/**"])
    assert (names(report.loaded), names(report.skipped)) == (["body/kernel", "body/bias"], ["head/kernel", "head/bias"])
    assert names(report.unused) == ["head/bias", "head/kernel"]
    assert held(new)["head/kernel"].tobytes() == before["head/kernel"].tobytes()
    assert names(transfer(new, held(old), only="body").loaded) == ["body/kernel", "body/bias"]


def test_a_pattern_that_names_nothing_is_an_error():
    for wrong in ({"skip": "haed/**"}, {"only": ["body", "x"]}, {"freeze": "x"}, {"adapt": {"x": "rows"}}):
        with pytest.raises(NotFound, match="matches nothing in the model"):
            transfer(head_and_body(3), held(head_and_body(3)), **wrong)


def test_names_are_changed_by_prefix_or_by_a_function():
    source = {f"net.{name.replace('/', '.')}": array for name, array in held(head_and_body(3)).items()}
    assert len(transfer(head_and_body(3), source, rename={"net": ""}).loaded) == 4
    report = transfer(head_and_body(3), source, rename=lambda name: None if ".head." in name else name[4:], skip="head")
    assert (len(report.loaded), names(report.unused)) == (2, ["net.head.bias", "net.head.kernel"])
    with pytest.raises(UsageError, match="are both called 'x'"):
        transfer(head_and_body(3), source, rename=lambda name: "x")


def test_a_precision_is_adapted_only_when_allowed_and_only_if_values_survive():
    source = {name: array.astype("f8") for name, array in held(head_and_body(3)).items()}
    report = transfer(head_and_body(3), source)
    assert {entry.note for entry in report.adapted} == {"from float64"}
    with pytest.raises(StateMismatch, match="float64 does not become float32"):
        transfer(head_and_body(3), source, adapt=False)
    source["head/bias"][0] = 1e300
    with pytest.raises(StateMismatch, match="holds values that float32 cannot"):
        transfer(head_and_body(3), source)
    with pytest.raises(StateMismatch, match="int8 does not become float32"):
        transfer(head_and_body(3), source | {"head/bias": np.zeros(3, "i1")})


# ---------------------------------------------------------------------------------------------------- freezing, reports


def test_only_layers_that_were_loaded_whole_are_frozen():
    new = head_and_body(5)
    report = transfer(new, held(head_and_body(3)), skip="head", freeze=True)
    assert report.frozen == ("body",)
    assert [layer.trainable for layer in new.layers] == [False, True]
    before = held(new)
    new.compile("adam", "mse")
    new.fit(np.random.rand(8, 4), np.random.rand(8, 5), verbose=0)
    assert held(new)["body/kernel"].tobytes() == before["body/kernel"].tobytes()
    assert held(new)["head/kernel"].tobytes() != before["head/kernel"].tobytes()


def test_patterns_freeze_what_they_name_and_nothing_is_frozen_when_it_raises():
    new = head_and_body(3)
    with pytest.raises(StateMismatch):
        transfer(new, {"body/kernel": held(new)["body/kernel"]}, freeze=True)
    assert all(layer.trainable for layer in new.layers)
    assert transfer(new, held(head_and_body(3)), freeze=["head/**"]).frozen == ("head",)


def test_each_weight_stands_once_in_the_report_and_names_cannot_move_a_cursor():
    source = held(head_and_body(3)) | {"evil\x1b[2J<b>": np.zeros(1, "f4")}
    report = transfer(head_and_body(3), source, skip="head")
    listed = [*report.loaded, *report.adapted, *report.mismatched, *report.missing, *report.refused, *report.skipped]
    assert sorted(names(listed)) == sorted(held(head_and_body(3)))
    assert "\x1b" not in str(report)
    assert r"evil\x1b[2J<b>" in str(report)
    assert "<b>" not in report._repr_html_()
    assert json.loads(json.dumps(report.to_json()))["loaded"][0]["path"] == "body/kernel"


def test_a_source_or_model_that_cannot_be_used_is_said():
    with pytest.raises(UsageError, match=r"tensor\.numpy"):
        transfer(head_and_body(3), {"body.weight": torch.zeros(1)})
    with pytest.raises(UsageError, match="is built"):
        transfer(keras.Sequential([layers.Dense(2)]), {})


# -------------------------------------------------------------------------------------------------- torch to Keras, run


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


def conv(kind: str, rank: int, **options) -> torch.nn.Module:
    return getattr(torch.nn, f"{kind}{rank}d")(3, 4, 3, **options)


IMAGES = {
    **{f"Conv{n}D": (conv("Conv", n), getattr(layers, f"Conv{n}D")(4, 3), n) for n in (1, 2, 3)},
    **{
        f"Conv{n}DTranspose": (conv("ConvTranspose", n), getattr(layers, f"Conv{n}DTranspose")(4, 3), n)
        for n in (1, 2, 3)
    },
    "strided transpose": (
        conv("ConvTranspose", 2, stride=2),
        layers.Conv2DTranspose(4, 3, strides=2),
        2,
    ),
    "DepthwiseConv1D": (
        torch.nn.Conv1d(3, 6, 3, groups=3),
        layers.DepthwiseConv1D(3, depth_multiplier=2),
        1,
    ),
    "DepthwiseConv2D": (
        torch.nn.Conv2d(3, 6, 3, groups=3),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        2,
    ),
    "grouped": (torch.nn.Conv2d(3, 6, 3, groups=3), layers.Conv2D(6, 3, groups=3), 2),
    "BatchNorm": (torch.nn.BatchNorm2d(3), layers.BatchNormalization(epsilon=1e-5), 2),
    "GroupNorm": (torch.nn.GroupNorm(3, 3), layers.GroupNormalization(3, epsilon=1e-5), 2),
}


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(drawn + 0.5 if "var" in name else drawn - 0.5)
    return module.eval()


@pytest.mark.parametrize("case", IMAGES)
def test_a_torch_layer_of_images_gives_the_same_in_keras(case):
    module, layer, rank = IMAGES[case]
    x = np.random.default_rng(0).random((2, 3, *(7, 6, 5)[:rank]), "f4")
    model = sequential((*(None,) * rank, 3), layer)
    report = transfer(model, {f"{layer.name}.{name}": array for name, array in tensors(shaken(module)).items()})
    assert not report.missing
    expected = channels_last(module(torch.from_numpy(x)).detach().numpy())
    np.testing.assert_allclose(model.predict(channels_last(x), verbose=0), expected, rtol=1e-5, atol=1e-5)


SEQUENCES = {
    "Linear": (torch.nn.Linear(6, 4), lambda: layers.Dense(4)),
    "square Linear": (torch.nn.Linear(6, 6), lambda: layers.Dense(6)),
    "LayerNorm": (torch.nn.LayerNorm(6), lambda: layers.LayerNormalization(epsilon=1e-5)),
    "RMSNorm": (torch.nn.RMSNorm(6, eps=1e-5), lambda: layers.RMSNormalization(epsilon=1e-5)),
    "LSTM": (torch.nn.LSTM(6, 4, batch_first=True), lambda: layers.LSTM(4, return_sequences=True)),
    "GRU": (torch.nn.GRU(6, 4, batch_first=True), lambda: layers.GRU(4, return_sequences=True)),
    "RNN": (torch.nn.RNN(6, 4, batch_first=True), lambda: layers.SimpleRNN(4, return_sequences=True)),
    "bidirectional LSTM": (
        torch.nn.LSTM(6, 4, batch_first=True, bidirectional=True),
        lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
    ),
    "bidirectional GRU": (
        torch.nn.GRU(6, 4, batch_first=True, bidirectional=True),
        lambda: layers.Bidirectional(layers.GRU(4, return_sequences=True)),
    ),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_a_torch_layer_of_sequences_gives_the_same_in_keras(case):
    module, make = SEQUENCES[case]
    x = np.random.default_rng(0).random((2, 5, 6), "f4")
    layer = make()
    model = sequential((5, 6), layer)
    report = transfer(model, {f"{layer.name}.{name}": array for name, array in tensors(shaken(module)).items()})
    assert not report.unused
    found = module(torch.from_numpy(x))
    expected = (found[0] if isinstance(found, tuple) else found).detach().numpy()
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-5)


def test_the_layers_of_a_stacked_torch_lstm_are_named_by_their_number():
    module = shaken(torch.nn.LSTM(6, 4, num_layers=2, batch_first=True))
    model = sequential(
        (5, 6), layers.LSTM(4, return_sequences=True, name="a"), layers.LSTM(4, return_sequences=True, name="b")
    )
    source = {f"rnn.{name}": array for name, array in tensors(module).items()}
    transfer(model, source, rename={"rnn/l0": "a", "rnn/l1": "b"})
    x = np.random.default_rng(0).random((2, 5, 6), "f4")
    expected = module(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-5)


def test_a_torch_embedding_gives_the_same_in_keras():
    module = shaken(torch.nn.Embedding(9, 4))
    model = sequential((5,), layers.Embedding(9, 4, name="tokens"))
    transfer(model, {"tokens.weight": tensors(module)["weight"]})
    x = np.arange(10).reshape(2, 5) % 9
    assert np.array_equal(model.predict(x, verbose=0), module(torch.from_numpy(x)).detach().numpy())


@pytest.mark.parametrize("widths", [{}, {"kdim": 3, "vdim": 5}])
def test_torch_attention_gives_the_same_in_keras(widths):
    module = shaken(torch.nn.MultiheadAttention(6, 2, batch_first=True, **widths))
    kinds = {"query": 6, "value": widths.get("vdim", 6), "key": widths.get("kdim", 6)}
    inputs = {name: keras.Input((5, width), name=name) for name, width in kinds.items()}
    attention = layers.MultiHeadAttention(2, 3, output_shape=6, name="attention")
    model = keras.Model(inputs, attention(inputs["query"], inputs["value"], inputs["key"]))
    report = transfer(model, {f"attention.{name}": array for name, array in tensors(module).items()})
    assert len(report.adapted) + len(report.loaded) == 8
    x = {name: np.random.default_rng(0).random((2, 5, width), "f4") for name, width in kinds.items()}
    given = [torch.from_numpy(x[name]) for name in ("query", "key", "value")]
    expected = module(*given, need_weights=False)[0].detach().numpy()
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-5)


def test_a_gru_that_resets_before_the_product_is_another_function_and_a_mismatch():
    model = sequential((5, 6), layers.GRU(4, reset_after=False, name="gru"))
    with pytest.raises(StateMismatch, match=r"gru/gru_cell/bias: wanted float32 \[12\]"):
        transfer(model, {f"gru.{name}": array for name, array in tensors(torch.nn.GRU(6, 4)).items()})


def test_tensors_that_do_not_belong_together_are_a_mismatch():
    source = {f"lstm.{name}": array for name, array in tensors(torch.nn.LSTM(6, 4)).items()}
    model = sequential((5, 6), layers.LSTM(4, name="lstm"))
    with pytest.raises(StateMismatch, match="is not what torch has here"):
        transfer(model, source | {"lstm.bias_hh_l0": np.zeros(7, "f4")})


def test_a_report_says_where_epsilon_is_not_that_of_torch():
    model = sequential((3,), layers.BatchNormalization(name="bn"))
    report = transfer(model, {f"bn.{name}": array for name, array in tensors(torch.nn.BatchNorm1d(3)).items()})
    assert {entry.note for entry in report.loaded} == {"epsilon is 0.001 here, 1e-05 by default in torch"}


def test_layouts_are_left_alone_when_adapt_is_false():
    model = sequential((6,), layers.Dense(6, name="fc"))
    before = held(model)
    with pytest.raises(StateMismatch, match="fits only when adapted"):
        transfer(model, {"fc.weight": np.ones((6, 6), "f4"), "fc.bias": np.ones(6, "f4")}, adapt=False)
    assert same(before, held(model))


# ------------------------------------------------------------------------------------------------------------- resizing


def positions(length: int, width: int = 4) -> keras.Model:
    return sequential((1,), layers.Embedding(length, width, name="positions"))


def test_positions_are_stretched_as_torch_interpolates_and_only_when_asked():
    table = np.random.default_rng(0).random((6, 4), "f4")
    with pytest.raises(StateMismatch, match=r"wanted float32 \[9, 4\], found float32 \[6, 4\]"):
        transfer(positions(9), {"positions/embeddings": table})
    model = positions(9)
    report = transfer(model, {"positions/embeddings": table}, adapt={"positions": "resize"})
    assert report.adapted[0].note == "resized linearly from 6 to 9"
    expected = torch.nn.functional.interpolate(torch.from_numpy(table.T[None]), size=9, mode="linear")[0].numpy().T
    np.testing.assert_allclose(held(model)["positions/embeddings"], expected, atol=1e-6)


def test_a_grid_of_patches_is_stretched_as_torch_interpolates_and_its_class_token_kept():
    table = np.random.default_rng(0).random((1 + 9, 4), "f4")
    model = positions(1 + 25)
    transfer(model, {"positions/embeddings": table}, adapt={"positions/*": "grid"})
    found = held(model)["positions/embeddings"]
    grid = torch.from_numpy(table[1:].reshape(3, 3, 4).transpose(2, 0, 1)[None])
    expected = torch.nn.functional.interpolate(grid, size=(5, 5), mode="bilinear")[0].numpy()
    assert np.array_equal(found[0], table[0])
    np.testing.assert_allclose(found[1:], expected.transpose(1, 2, 0).reshape(25, 4), atol=1e-6)


def test_common_rows_of_a_vocabulary_are_kept_and_new_ones_left_as_initialised():
    table = np.random.default_rng(0).random((3, 4), "f4")
    model = positions(5)
    before = held(model)["positions/embeddings"]
    transfer(model, {"positions.weight": table}, adapt={"positions": "rows"})
    assert np.array_equal(held(model)["positions/embeddings"], np.concatenate([table, before[3:]]))
    model = positions(5)
    before = held(model)["positions/embeddings"]
    rows = Rows(old=["a", "b", "c"], new=["c", "x", "a", "y", "z"])
    report = transfer(model, {"positions.weight": table}, adapt={"positions": rows})
    assert np.array_equal(held(model)["positions/embeddings"], [table[2], before[1], table[0], before[3], before[4]])
    assert report.adapted[0].note == "rows by token: 2 kept, 3 as initialised"
    with pytest.raises(UsageError, match="for the 3 rows of the source"):
        transfer(positions(5), {"positions.weight": table}, adapt={"positions": Rows(["a"], rows.new)})


# --------------------------------------------------------------------------------------------------------- two examples


def test_the_example_of_the_docs_learns_more_from_few_images_than_a_start_from_nothing(tmp_path):
    line = [sys.executable, str(HERE.parents[1] / "docs" / "transfer_digits.py"), "1"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the last one grew from low-digits" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("2 ")]
    accuracy = {row[-3]: float(row[-2]) for row in rows}
    assert accuracy["transferred"] > accuracy["scratch"] + 0.2


def test_example_a_torch_network_goes_on_in_keras_with_equal_outputs():
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)
            self.bn = torch.nn.BatchNorm2d(4)
            self.fc = torch.nn.Linear(4 * 3 * 2, 8)
            self.bn2 = torch.nn.BatchNorm1d(4 * 3 * 2)
            self.head = torch.nn.Linear(8, 2)

        def forward(self, x):
            x = torch.nn.functional.max_pool2d(torch.relu(self.bn(self.conv(x))), 2)
            return self.head(torch.relu(self.fc(self.bn2(torch.flatten(x, 1)))))

    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    x, y = torch.rand(32, 3, 8, 6), torch.randint(0, 2, (32,))
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    inside = [layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(epsilon=1e-5, name="bn"), layers.ReLU()]
    inside += [layers.MaxPooling2D(), layers.Flatten(), layers.BatchNormalization(epsilon=1e-5, name="bn2")]
    model = sequential((8, 6, 3), *inside, layers.Dense(8, "relu", name="fc"), layers.Dense(2, name="head"))
    report = transfer(model, tensors(net))
    assert not report.missing
    assert names(report.unused) == ["bn.num_batches_tracked", "bn2.num_batches_tracked"]
    assert "rows in channels-last order" in str(report)  # torch flattens channel by channel
    images = channels_last(x.numpy())
    np.testing.assert_allclose(model.predict(images, verbose=0), net.eval()(x).detach().numpy(), rtol=1e-5, atol=1e-5)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, y.numpy(), verbose=0)


# --------------------------------------------------------------------------------------------------- the other backends


def test_a_transfer_is_the_same_on_every_backend():
    line = [sys.executable, str(HERE / "transfer_here.py")]
    running = {}
    for backend in ("jax", "torch"):
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        running[backend] = subprocess.Popen(
            line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    for backend, process in running.items():
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        assert json.loads(out.splitlines()[-1]) == {"backend": backend, "close": True, "frozen": ["body"]}
