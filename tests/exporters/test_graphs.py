"""A graph that was exported answers as the model does, in its own runtime; or nothing is written."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import modelkeep as mk
from modelkeep.cli.main import app
from modelkeep.errors import Damaged, NotExact, NotFound, StorageError, UsageError
from modelkeep.exporters import graphs
from modelkeep.exporters.formats import FORMATS
from modelkeep.keep import Keep
from modelkeep.runtime import tensorflow_c
from modelkeep.runtime.table import readers

HERE = Path(__file__).parent
GRAPHS = ("savedmodel", "litert", "onnx", "stablehlo", "pt2")
X = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    return mk.open(tmp_path / "keep")


def digits() -> keras.Model:
    inputs = keras.Input((8,), name="image")
    scaled = keras.layers.Rescaling(1 / 16, name="scaled")(inputs)
    hidden = keras.layers.Dense(16, "gelu", name="hidden")(scaled)
    outputs = {
        "digit": keras.layers.Dense(4, "softmax", name="head")(hidden),
        "other": keras.layers.Dense(4, name="side")(hidden),
    }
    return keras.Model(inputs, outputs)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "keep")


@pytest.mark.parametrize("to", GRAPHS)
def test_an_export_is_proven_in_its_own_runtime_and_found_again(keep: Keep, tmp_path: Path, to: str) -> None:
    version = keep.publish("digits", digits(), example=X)
    path = keep.export(version, to, tmp_path / f"digits.{to}")
    ((export, proof),) = keep.exports("digits@1")
    assert (export.format, dict(export.options)) == (to, {})
    first = proof["runtimes"][0]
    assert first["runtime"] == readers(to)[0].name
    assert [batch["batch"] for batch in first["batches"]] == [4, 1]
    assert all(0 <= batch["max_rel"] <= 1e-5 and batch["top"] == 1.0 for batch in first["batches"])
    asked = graphs.ask
    try:
        graphs.ask = lambda *_, **__: pytest.fail("it was made again")
        again = keep.export(version, to, tmp_path / f"again.{to}")
    finally:
        graphs.ask = asked
    assert contents(again) == contents(path)
    assert keep.verify().ok
    (verified,) = keep.verify_exports("digits@1")
    assert verified[1]["runtimes"][0]["batches"]
    assert left(tmp_path) == sorted([f"digits.{to}", f"again.{to}"])


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {str(one.relative_to(path)): one.read_bytes() for one in files}


def test_a_keep_in_memory_exports_too(tmp_path: Path) -> None:
    keep = mk.open("memory://export-graph")
    path = keep.export(keep.publish("digits", digits(), example=X), "litert", tmp_path / "digits.tflite")
    assert path.read_bytes()[4:8] == b"TFL3"


def test_exports_go_with_their_version(keep: Keep, tmp_path: Path) -> None:
    version = keep.publish("digits", digits(), example=X)
    keep.export(version, "litert", tmp_path / "digits.tflite")
    (export,) = keep.model("digits").exports(1).all()
    assert keep.store.has_snapshot(export.snapshot_id)
    assert not [one for one in keep.gc().removed if "export" in one.reason]
    keep.model("digits").remove(1)
    from modelkeep.store import free_versions

    free_versions(keep.store, [version])
    assert not keep.store.has_snapshot(export.snapshot_id)
    assert keep.verify().ok


@pytest.mark.parametrize(
    ("fault", "to", "named"),
    [
        ("changed_weight", "litert", "the first layer whose output differs is 'hidden'"),
        pytest.param(
            "changed_weight",
            "onnx",
            "the first layer whose output differs is 'hidden'",
            marks=pytest.mark.torture,
        ),
        pytest.param("swapped_outputs", "litert", "digit differs by", marks=pytest.mark.torture),
        ("dropped_preprocessing", "savedmodel", "the first layer whose output differs is 'scaled'"),
        ("wrong_batch", "litert", r"image is of shape \[4, 8\], and was exported as \[2, 8\]"),
    ],
)
def test_a_wrong_export_is_caught_and_named(
    keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, to: str, named: str
) -> None:
    keep.publish("digits", digits(), example=X)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("SABOTAGE", fault)
    monkeypatch.setenv("SABOTAGE_OF", f"modelkeep.exporters.{FORMATS[to].routes[0].module}")
    job = graphs._job
    monkeypatch.setattr(graphs, "_job", lambda *given: {**job(*given), "module": "sabotage"})
    with pytest.raises((NotExact, UsageError), match=named):
        keep.export("digits@1", to, tmp_path / "out")
    assert left(tmp_path) == []
    assert keep.exports("digits@1") == []


def test_layers_are_further_signatures_which_are_proven_too(keep: Keep, tmp_path: Path) -> None:
    model = digits()
    keep.publish("digits", model, example=X)
    path = keep.export("digits@1", "savedmodel", tmp_path / "out", signatures=["hidden", "scaled"])
    wanted = keras.Model(model.inputs[0], model.get_layer("hidden").output)(X)
    found = tensorflow_c.load(path, signature="hidden")({"image": X})
    np.testing.assert_allclose(found["hidden"], wanted, atol=1e-5)
    assert tensorflow_c.load(path)({"image": X}).keys() == {"digit", "other"}
    ((_, proof),) = keep.exports("digits@1")
    assert proof["signatures"].keys() == {"hidden", "scaled"}
    again = keep.verify_exports("digits@1")[0][1]
    for told in (proof, again):
        for (runtime,) in told["signatures"].values():
            assert runtime["runtime"] == "tensorflow-c"
            assert [batch["batch"] for batch in runtime["batches"]] == [len(X), 1]
            assert all(batch["max_rel"] < 1e-5 for batch in runtime["batches"])
    keep.export("digits@1", "savedmodel", tmp_path / "again", signatures=["hidden", "scaled"])
    assert len(keep.exports("digits@1")) == 1
    output = CliRunner().invoke(app, ["show", "digits@1", "--keep", str(tmp_path / "keep")]).output
    assert "signature hidden" in output
    with pytest.raises(UsageError, match=r"as savedmodel: a signature is asked for layer 'none', and the layers are "):
        keep.export("digits@1", "savedmodel", tmp_path / "none", signatures=["none"])
    with pytest.raises(UsageError, match="signatures is an option of savedmodel, not of litert"):
        keep.export("digits@1", "litert", tmp_path / "none", signatures=["hidden"])
    with pytest.raises(UsageError, match="signatures are names of layers, not 'hidden'; serving_default is the model"):
        keep.export("digits@1", "savedmodel", tmp_path / "none", signatures="hidden")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["again", "keep", "out"]


def test_a_version_without_examples_says_what_to_do(keep: Keep, tmp_path: Path) -> None:
    keep.publish("digits", digits())
    with pytest.raises(UsageError, match=r"has no examples, on which an export is proven; publish it with example="):
        keep.export("digits@1", "litert", tmp_path / "out")


def test_a_missing_runtime_says_how_to_install_it(keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep.publish("digits", digits(), example=X)
    monkeypatch.setattr(graphs, "_is_installed", lambda name: name != "ai_edge_litert")
    with pytest.raises(UsageError, match=r"ai_edge_litert, which is not installed; pip install 'modelkeep\[export\]'"):
        keep.export("digits@1", "litert", tmp_path / "out")


@pytest.mark.parametrize(
    ("to", "options", "told"),
    [
        ("onnx", {"quantize": "int8"}, "quantize is an option of litert and tfjs, not of onnx"),
        ("litert", {"quantize": "int4"}, "litert has no quantization 'int4', but dynamic, int8, float16"),
        ("litert", {"opset": 17}, "opset is an option of onnx, not of litert"),
        ("onnx", {"opset": 99}, "opset is a whole number from 15 to 18, not 99"),
        ("safetensors", {"batch": 1}, "batch is an option of litert, not of safetensors"),
    ],
)
def test_an_option_that_a_format_has_not_is_refused(keep: Keep, tmp_path: Path, to: str, options, told: str) -> None:
    keep.publish("digits", digits(), example=X)
    with pytest.raises(UsageError, match=told):
        keep.export("digits@1", to, tmp_path / "out", **options)


@pytest.mark.parametrize(
    "quantize", ["int8", *(pytest.param(one, marks=pytest.mark.torture) for one in ("dynamic", "float16"))]
)
def test_a_quantized_export_is_smaller_and_says_what_it_loses(keep: Keep, tmp_path: Path, quantize: str) -> None:
    layers = [keras.layers.Dense(256, "relu"), keras.layers.Dense(256, "relu"), keras.layers.Dense(4, "softmax")]
    model = keras.Sequential([keras.Input((8,), name="x"), *layers])
    keep.publish("wide", model, example=X)
    plain = keep.export("wide@1", "litert", tmp_path / "plain.tflite")
    small = keep.export("wide@1", "litert", tmp_path / "small.tflite", quantize=quantize)
    assert small.stat().st_size < 0.6 * plain.stat().st_size
    proofs = {dict(export.options).get("quantize"): proof for export, proof in keep.exports("wide@1")}
    assert proofs[quantize]["tolerance"] > proofs[None]["tolerance"]
    worst = max(batch["max_rel"] for batch in proofs[quantize]["runtimes"][0]["batches"])
    assert 0 < worst <= proofs[quantize]["tolerance"]


@pytest.mark.torture
def test_an_operation_that_litert_has_not_is_named(keep: Keep, tmp_path: Path) -> None:
    text = keras.layers.TextVectorization(output_sequence_length=4)
    text.adapt(["red green blue"])
    inputs = keras.Input((), dtype="string", name="text")
    model = keras.Model(inputs, keras.layers.Embedding(8, 2)(text(inputs)))
    keep.publish("words", model, example=np.array(["red", "blue red"], object))
    with pytest.raises(UsageError, match=r"LiteRT's builtins have no .*String.*--flex"):
        keep.export("words@1", "litert", tmp_path / "out")
    with pytest.raises(UsageError, match=r"ONNX has no .*String"):
        keep.export("words@1", "onnx", tmp_path / "out")
    assert left(tmp_path) == []
    keep.export("words@1", "savedmodel", tmp_path / "words")
    assert left(tmp_path) == ["words"]
    # who insists gets the file, and is told that nothing here has run it
    keep.export("words@1", "litert", tmp_path / "words.tflite", flex=True)
    proofs = {export.format: proof for export, proof in [*keep.exports("words@1"), *keep.verify_exports("words@1")]}
    assert ["Flex delegate" in one["cannot"] for one in proofs["litert"]["runtimes"]] == [True]
    assert "batches" in proofs["savedmodel"]["runtimes"][0]
    assert mk.predictor("words@1", keep=keep).runtime.startswith("tensorflow-c")
    shown = CliRunner().invoke(app, ["show", "words@1", "--keep", str(tmp_path / "keep")])
    assert "NOT PROVEN" in shown.output
    assert (tmp_path / "words" / "1" / "saved_model.pb").exists()
    assert "words" in (tmp_path / "words" / "models.config").read_text()


def test_the_command_exports_shows_and_verifies(keep: Keep, tmp_path: Path) -> None:
    keep.publish("digits", digits(), example=X)
    out = tmp_path / "digits.tflite"
    command = [sys.executable, "-m", "modelkeep", "--keep", str(tmp_path / "keep")]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *words], capture_output=True, text=True, check=False)

    done = run("export", "digits@1", "--to", "litert", "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    assert "litert" in done.stdout
    shown = run("show", "digits@1")
    assert "litert" in shown.stdout
    verified = run("verify", "--export", "digits@1", "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["exports"][0]["runtimes"][0]["runtime"] == "litert"
    none = run("verify", "--export", "digits@2")
    assert none.returncode == NotFound.exit_code


def test_a_full_disk_leaves_nothing(keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep.publish("digits", digits(), example=X)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(graphs, "ask", full)
    with pytest.raises(StorageError, match="No space left on device"):
        keep.export("digits@1", "litert", tmp_path / "out")
    assert left(tmp_path) == []


def test_damage_of_a_kept_export_is_found(keep: Keep, tmp_path: Path) -> None:
    keep.publish("digits", digits(), example=X)
    keep.export("digits@1", "litert", tmp_path / "digits.tflite")
    shard = max((tmp_path / "keep" / "shards").rglob("*.safetensors"), key=os.path.getmtime)
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    with pytest.raises(Damaged):
        keep.export("digits@1", "litert", tmp_path / "again.tflite")
    report = keep.verify()
    assert any("model:digits@1 as litert" in damage.refs for damage in report.damages)


def test_two_at_once_both_get_an_export(keep: Keep, tmp_path: Path) -> None:
    keep.publish("digits", digits(), example=X)
    failed: list[Exception] = []

    def run(name: str) -> None:
        try:
            mk.open(tmp_path / "keep").export("digits@1", "litert", tmp_path / name)
        except mk.errors.ModelkeepError as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(f"{number}.tflite",)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(keep.exports("digits@1")) == 1  # the newest counts
    assert keep.verify().ok
