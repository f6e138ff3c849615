"""A model that is published comes back: on every backend, from every backend, and never by running what a file says."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import modelkeep as mk
from modelkeep.budget import Budget
from modelkeep.errors import Conflict, LimitExceeded, NotExact, NotFound, Unsafe, UnsupportedState, UsageError
from modelkeep.frameworks import keras as door
from modelkeep.keep import Keep
from modelkeep.snapshot.canonical import canonical_json
from modelkeep.state import differences, flatten

HERE = Path(__file__).parent
PAIRS = [("jax", "torch"), ("torch", "tensorflow"), ("tensorflow", "jax")]
"""A backend that writes, and another one that reads."""

IN_CI = PAIRS[2]
"""The others are left to torture, so that `make test` stays within its time."""


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    return mk.open(tmp_path / "keep")


def digits(units: int = 16) -> keras.Model:
    layers = [keras.layers.Dense(units, "relu", name="hidden"), keras.layers.Dense(10, name="digit")]
    model = keras.Sequential([keras.Input((8,), name="image"), *layers])
    model.compile("adam", "mse")
    return model


def rows(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).random((count, 8)).astype("float32")


def tensor_bytes(keep: Keep) -> int:
    folder = Path(keep.url.removeprefix("file://"))
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def ran(backend: str, *words: object) -> list[dict[str, str]]:
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    line = [sys.executable, HERE / "publish_models.py", *map(str, words)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")]


@pytest.mark.parametrize(
    ("writer", "reader"), [pytest.param(*pair, marks=() if pair == IN_CI else pytest.mark.torture) for pair in PAIRS]
)
def test_every_kind_of_model_comes_back_bit_for_bit_and_goes_to_another_backend(
    tmp_path: Path, writer: str, reader: str
) -> None:
    published = ran(writer, "publish", tmp_path / "keep")
    assert not [f"{one['case']}: {one['wrong']}" for one in published if one["wrong"]]
    assert len(published) >= 28
    found = ran(reader, "load", tmp_path / "keep", writer)
    wrong = {one["case"]: one["wrong"] for one in found if one["wrong"]}
    if "jax" in (reader, writer):  # which has no float64 unless it is asked for, and says so
        assert "wanted float" in wrong.pop("float64")
    assert not wrong
    assert len(found) >= 27


@pytest.mark.parametrize(
    ("writer", "reader", "graphs"),
    [(*PAIRS[1], 5), *(pytest.param(*pair, 1000, marks=pytest.mark.torture) for pair in PAIRS)],
)
def test_any_graph_comes_back_bit_for_bit_and_goes_to_another_backend(
    tmp_path: Path, tried: Callable[..., None], writer: str, reader: str, graphs: int
) -> None:
    place = tmp_path / "keep"
    published, loaded = ran(writer, "publish", place, 0, graphs), ran(reader, "load", place, writer, 0, graphs)
    tried(len(loaded), f"graphs drawn at random, {writer} to {reader}", "published, loaded, compared")
    assert len(published) == len(loaded) == graphs
    assert not [f"{one['case']}: {one['wrong']}" for one in [*published, *loaded] if one["wrong"]]


def test_versions_count_up_and_share_the_bytes_that_did_not_change(keep: Keep) -> None:
    model = digits(units=4096)
    first = keep.publish("digits", model, metrics={"accuracy": 0.9})
    before = tensor_bytes(keep)
    model.get_layer("digit").bias.assign(np.ones(10))
    second = keep.publish("digits", model, parents=[first])
    assert (first.ref, second.ref) == ("model:digits@1", "model:digits@2")
    assert tensor_bytes(keep) - before < 10_000
    assert second.parents[0].number == 1
    assert keep.load_model("digits@1").get_layer("digit").bias.numpy().sum() == 0
    assert keep.load_model("digits").get_layer("digit").bias.numpy().sum() == 10


def test_a_checkpoint_is_promoted_without_a_byte_of_tensors_and_outlives_its_run(keep: Keep) -> None:
    model, x = digits(), rows(64)
    with keep.run("cnn", seed=1) as run:
        mk.keras.fit(model, x, np.zeros((64, 10)), epochs=3, verbose=0, run=run, retain=mk.retain(last=1))
    before = tensor_bytes(keep)
    version = keep.publish("digits", "run:cnn@last")
    assert tensor_bytes(keep) == before
    lineage = keep.snapshot(version).meta["lineage"]
    assert isinstance(lineage, dict)
    assert (lineage["run"], lineage["step"], version.metrics.keys()) == ("cnn", 6, {"loss"})
    with keep.run("cnn") as run:  # retention lets go of the checkpoint that was published
        mk.keras.fit(model, x, np.zeros((64, 10)), epochs=6, verbose=0, run=run, retain=mk.retain(last=1))
    with pytest.raises(NotFound):
        keep.snapshot("run:cnn@6")
    keep.gc(dry_run=False)
    assert keep.verify().ok
    loaded = keep.load_model("digits@1")
    again = digits()
    door.load_into(again, {"model": keep.load_state(version, select="model")["model"]}, parts=("model",))
    assert np.array_equal(again(x), loaded(x))


def test_a_promoted_checkpoint_can_be_asked_and_go_on_training(keep: Keep) -> None:
    model, x = digits(), rows(64)
    with keep.run("cnn", seed=1) as run:
        mk.keras.fit(model, x, np.zeros((64, 10)), epochs=2, verbose=0, run=run)
    version = keep.publish("digits", "run:cnn@last", example=x[:4], optimizer=True)
    loaded = keep.load_model(version, compiled=True, check=True)
    assert int(loaded.optimizer.iterations) == 4
    assert not differences(door.state_of(model)["optimizer"], door.state_of(loaded)["optimizer"])
    assert np.array_equal(keep.load_state(version, select="examples")["examples"]["outputs"], model(x[:4]))


def test_a_checkpoint_of_the_callback_can_be_published_too(keep: Keep) -> None:
    model = digits()
    with keep.run("plain", seed=1) as run:
        model.fit(rows(64), np.zeros((64, 10)), epochs=1, verbose=0, callbacks=[mk.keras.Checkpoint(run)])
    keep.publish("digits", "run:plain@last")
    assert np.array_equal(keep.load_model("digits@1")(rows()), model(rows()))


def test_an_alias_is_loaded_by_the_function_of_the_package(keep: Keep) -> None:
    keep.publish("digits", digits(), example=rows())
    keep.alias("digits", "champion", 1)
    assert mk.load_model("model:digits@champion", keep=keep.url, check=True).count_params() == 314
    assert mk.load_model(f"{keep.url}#digits@champion").count_params() == 314
    with pytest.raises(Conflict):
        keep.alias("digits", "champion", 1, expect=2)


def test_text_goes_in_and_its_vocabulary_comes_along(keep: Keep) -> None:
    words = keras.layers.TextVectorization(output_sequence_length=3)
    words.adapt(["the cat sat", "the dog"])
    model = keras.Sequential([keras.Input((1,), dtype="string"), words, keras.layers.Embedding(20, 2)])
    model(tf.constant([["a"]]))
    keep.publish("words", model, example=[["the cat"], ["a dog sat"]])
    loaded = keep.load_model("words@1", check=True)
    assert loaded.layers[0].get_vocabulary() == words.get_vocabulary()
    assert keep.load_state("words@1", select="signature")["signature"]["inputs"]["dtype"] == "string"


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.nn.functional.dropout(self.norm(x), 0.5, self.training))


def test_a_torch_module_comes_back_into_the_class_that_is_passed_in(keep: Keep) -> None:
    net = Net().train()
    net(torch.ones(4, 8))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    version = keep.publish("net", net, example=rows())
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    loaded = keep.load_model(version, into=Net(), check=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())
    with pytest.raises(UsageError, match=r"class .*Net, which is never imported by its name; .* pass into="):
        keep.load_model(version)


def test_parameters_of_jax_come_back_with_the_answers_that_were_given(keep: Keep) -> None:
    params = {"w": jnp.arange(6.0).reshape(3, 2), "b": jnp.zeros(2)}
    x = np.ones((2, 3), "float32")
    keep.publish("linear", params, example=mk.Example(inputs=x, outputs=x @ params["w"] + params["b"]))
    found = keep.load_model("linear@1", into={"w": jnp.zeros((3, 2)), "b": jnp.ones(2)})
    assert all(np.array_equal(found[name], params[name]) for name in params)
    with pytest.raises(UsageError, match=r"example=mk\.Example"):
        keep.publish("linear", params, example=x)


def test_the_card_is_the_authors_or_one_in_the_form_of_hugging_face(keep: Keep) -> None:
    card = mk.Card(licence="apache-2.0", data={"digits": "sha256 5d2c"})
    written = keep.publish("digits", digits(), metrics={"accuracy": 0.98}, card=card)
    text = keep.load_state(written, select="card")["card"]
    assert text.startswith('---\nlibrary_name: "keras"\nlicense: "apache-2.0"\n')
    assert "`image: float32 [?, 8] -> digit: float32 [?, 10]`" in text
    assert keep.snapshot(written).meta["data"] == {"digits": "sha256 5d2c"}
    given = keep.publish("digits", digits(), card="# Mine\n")
    assert keep.load_state(given, select="card")["card"] == "# Mine\n"


def test_code_is_neither_published_nor_loaded(keep: Keep) -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Lambda(lambda x: x + 1)])
    with pytest.raises(UnsupportedState, match="lambda"):
        keep.publish("evil", model)
    config = {"class_name": "__lambda__", "config": {"code": "4wEAAAAA", "defaults": None, "closure": None}}
    layer = {"class_name": "Lambda", "module": "keras.layers", "config": {"name": "x", "function": config}}
    evil = {"class_name": "Sequential", "module": "keras", "config": {"name": "s", "layers": [layer]}}
    tree = {"architecture": canonical_json({"format": 1, "model": evil, "compile": None, "vocabularies": []})}
    snapshot = keep.save_state({**tree, "model": {}})
    with pytest.raises(Unsafe, match="Lambda"):
        keep.load_model(snapshot)
    assert keep.models() == []


def test_a_model_larger_than_the_budget_is_not_built(keep: Keep) -> None:
    keep.publish("digits", digits())
    with pytest.raises(LimitExceeded, match="Budget"):
        keep.load_model("digits@1", budget=Budget(parameters=100))
    with pytest.raises(LimitExceeded, match=r"limit_bytes|Budget"):
        keep.load_model("digits@1", budget=Budget(nbytes=100))


def test_other_answers_are_found(keep: Keep) -> None:
    model, x = digits(), rows()
    right = np.asarray(model(x))
    keep.publish("digits", model, example=mk.Example(x, right + np.float32(0.01)))
    with pytest.raises(NotExact, match=r"the output differs by 0\.01"):
        keep.load_model("digits@1", check=True)
    keep.publish("digits", model, example=mk.Example(x, right[:, :5]))
    with pytest.raises(NotExact, match=r"is float32 \[4, 10\], and float32 \[4, 5\] was recorded"):
        keep.load_model("digits@2", check=True)
    keep.publish("digits", model)
    with pytest.raises(UsageError, match="has no examples"):
        keep.load_model("digits@3", check=True)


def test_what_is_no_model_is_refused_with_a_way_out(keep: Keep) -> None:
    with pytest.raises(UsageError, match="is no model that is known"):
        keep.publish("digits", 3)
    with pytest.raises(UsageError, match="is not built"):
        keep.publish("digits", keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(UsageError, match="pass example="):
        keep.publish("net", Net())
    state = keep.save_state({"w": np.ones(3)})
    with pytest.raises(UsageError, match="no architecture and no signature and no model"):
        keep.publish("digits", state)
    with pytest.raises(UsageError, match="holds no model but a state"):
        keep.load_model(state)
    with pytest.raises(NotFound, match="there is no model digits"):
        keep.load_model("model:digits@1")
    with pytest.raises(NotFound):
        keep.publish("digits", digits(), parents=["other@1"])
    assert keep.models() == []


def adapted() -> keras.Model:
    model = digits(64)
    for layer in model.layers:
        layer.enable_lora(2, lora_alpha=8)
        layer.lora_kernel_b.assign(np.full(layer.lora_kernel_b.shape, 0.125))
    return model


def test_an_adapter_adds_its_own_bytes_alone_to_the_model_that_it_adapts(keep: Keep) -> None:
    base = digits(40_000)  # small arrays are written again, which is faster than to look for them
    keep.publish("digits", base)
    before = tensor_bytes(keep)
    for layer in base.layers:
        layer.enable_lora(2)
    adapter = sum(layer.lora_kernel_a.numpy().nbytes + layer.lora_kernel_b.numpy().nbytes for layer in base.layers)
    version = keep.publish("digits-fr", base, parents=["digits@1"])
    assert tensor_bytes(keep) - before <= adapter + 8192  # one header of a shard
    alone = keep.load_state(version.ref, select=["model/**/lora*"])
    assert sum(array.nbytes for array in flatten(alone).arrays.values()) == adapter


def test_adapters_are_kept_with_their_scale_and_merged_where_that_is_asked(keep: Keep) -> None:
    model = adapted()
    keep.publish("digits", model, example=rows())
    loaded = keep.load_model("digits", check=True)
    assert [layer.lora_alpha for layer in loaded.layers] == [8, 8]
    merged = mk.merge_lora(loaded)
    assert len(merged.weights) == 4
    assert np.allclose(merged(rows()), model(rows()), 1e-5, 1e-5)
    assert keep.load_model("digits").layers[0].lora_enabled  # the other is as it was
    with pytest.raises(UsageError, match="no layer with LoRA"):
        mk.merge_lora(merged)
    keep.publish("merged", merged, example=rows())
    keep.load_model("merged", check=True)
