"""A graph model for browsers: run in Node by the proof, and here in a browser, by the page that comes with it."""

import re
import shutil
import sys
from pathlib import Path

import browser
import keras
import numpy as np
import pytest
from model_kinds import KINDS, OWN, example

import modelkeep as mk
from modelkeep.errors import UsageError
from modelkeep.keep import Keep
from modelkeep.runtime.javascript.packages import MODULES
from modelkeep.runtime.table import RUNTIMES

LIBRARIES = Path(sys.prefix) / "node_modules" / "@tensorflow"
INSTALLED = {one.name for one in RUNTIMES if one.version() is not None}

needs_node = pytest.mark.skipif("tfjs-cpu" not in INSTALLED, reason="Node, or TensorFlow.js for it, is not installed")
needs_browser = pytest.mark.skipif("tfjs-webgl" not in INSTALLED, reason="Chromium is not installed")


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    return mk.open(tmp_path / "keep")


def recurrent() -> keras.Model:
    inputs = keras.Input((6, 4), name="series")
    both = keras.layers.Bidirectional(keras.layers.GRU(5, return_sequences=True))(inputs)
    hidden = keras.layers.Dense(8, "gelu", name="hidden")(keras.layers.LSTM(6)(both))
    return keras.Model(
        inputs, {"kind": keras.layers.Dense(3, "softmax")(hidden), "size": keras.layers.Dense(1)(hidden)}
    )


X = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Keep, Path]:
    folder = tmp_path_factory.mktemp("tfjs")
    keep = mk.open(folder / "keep")
    return keep, keep.export(keep.publish("series", recurrent(), example=X), "tfjs", folder / "web")


@needs_node
def test_loops_gelu_and_several_outputs_answer_alike(exported: tuple[Keep, Path]) -> None:
    keep, path = exported
    ((_, proof),) = keep.exports("series@1")
    readers = [one for one in ("tfjs-cpu", "tfjs-wasm", "tfjs-webgl") if one in INSTALLED]
    assert [one["runtime"] for one in proof["runtimes"]] == readers
    assert all(batch["max_rel"] < 1e-5 for one in proof["runtimes"] for batch in one["batches"])
    assert sorted(one.name for one in path.iterdir()) == ["group1-shard1of1.bin", "index.html", "model.json"]


@needs_node
@pytest.mark.parametrize("quantize", [pytest.param("float16", marks=pytest.mark.torture), "uint8"])
def test_weights_are_quantized_on_the_way(keep: Keep, tmp_path: Path, quantize: str) -> None:
    model = keras.Sequential([keras.Input((8,), name="x"), keras.layers.Dense(512, "relu"), keras.layers.Dense(4)])
    keep.publish("wide", model, example=np.random.default_rng(0).normal(size=(3, 8)).astype("float32"))
    path = keep.export("wide@1", "tfjs", tmp_path / "web", quantize=quantize)
    ((_, proof),) = keep.exports("wide@1")
    assert 0 < max(batch["max_rel"] for batch in proof["runtimes"][0]["batches"]) <= proof["tolerance"]
    shards = sum(one.stat().st_size for one in path.glob("*.bin"))
    assert shards < 0.7 * 4 * model.count_params()


def test_a_step_on_text_is_refused_by_its_name(keep: Keep, tmp_path: Path) -> None:
    text = keras.layers.TextVectorization(output_sequence_length=4)
    text.adapt(["red green blue"])
    inputs = keras.Input((), dtype="string", name="text")
    model = keras.Model(inputs, keras.layers.Embedding(8, 2)(text(inputs)))
    keep.publish("words", model, example=np.array(["red", "blue red"], object))
    with pytest.raises(UsageError, match=r"TensorFlow\.js has no .*String"):
        keep.export("words@1", "tfjs", tmp_path / "out")


def test_without_node_the_error_says_what_to_install(
    keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODULES, str(tmp_path))
    model = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Dense(1)])
    keep.publish("small", model, example=np.ones((2, 2), "float32"))
    with pytest.raises(UsageError, match=r"npm install @tensorflow/tfjs-core@4\.22\.0"):
        keep.export("small@1", "tfjs", tmp_path / "out")


def with_libraries(path: Path, web: Path) -> Path:
    """A copy of an export with the libraries that its page names, as the docs say."""
    shutil.copytree(path, web)
    (web / "tfjs").mkdir()
    for name in ("core", "converter", "backend-cpu", "backend-webgl"):
        shutil.copy(LIBRARIES / f"tfjs-{name}" / "dist" / f"tf-{name}.min.js", web / "tfjs")
    return web


def run_page(web: Path, backend: str) -> str:
    """The document of the page after a click on Run."""
    page = (web / "index.html").read_text()
    driven = f"by('backend').value = '{backend}'; run().then(() => fetch('/done'));\n</script>\n</html>"
    (web / "driven.html").write_text(
        page.replace("</script>\n</html>", driven).replace("<h1>", f"{browser.WAITING}<h1>")
    )
    with browser.serving(web) as address:
        document = browser.opened(f"{address}/driven.html")
    assert 'data-done="yes"' in document, document[-1500:]
    return document


@needs_node
@needs_browser
@pytest.mark.parametrize("backend", ["cpu", "webgl"])
def test_the_page_runs_in_a_browser(exported: tuple[Keep, Path], tmp_path: Path, backend: str) -> None:
    keep, path = exported
    document = run_page(with_libraries(path, tmp_path / "web"), backend)
    told = re.findall(r"<td>(\d+)</td><td>([-0-9.e]+)</td>", document)
    wanted = keep.load_model("series@1")(X[:1])
    found = [float(value) for _, value in told]
    assert np.allclose(found, np.concatenate([np.array(wanted["kind"])[0], np.array(wanted["size"])[0]]), atol=1e-4)


@needs_node
@needs_browser
def test_the_page_of_a_model_of_words_has_labels(keep: Keep, tmp_path: Path) -> None:
    words = keras.layers.StringLookup(vocabulary=["red", "green", "blue"])
    inputs = keras.Input((2,), dtype="string", name="words")
    hidden = keras.layers.Flatten()(keras.layers.Embedding(4, 3)(words(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax", name="kind")(hidden))
    given = np.array([["red", "grey"], ["blue", "blue"]], object)
    keep.publish("words", model, example=given, labels=["warm", "cold", "neither"])
    path = keep.export("words@1", "tfjs", tmp_path / "export")
    document = run_page(with_libraries(path, tmp_path / "web"), "webgl")
    told = dict(re.findall(r"<td>(\w+)</td><td>([-0-9.e]+)</td>", document))
    wanted = np.array(model(given[:1]))[0]
    assert list(told) == ["warm", "cold", "neither"]
    assert np.allclose([float(value) for value in told.values()], wanted, atol=1e-4)


@needs_node
@needs_browser
@pytest.mark.torture
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")  # Keras, of the model in int8
@pytest.mark.parametrize("kind", [name for name in KINDS if name != "TextVectorization"])
def test_the_page_of_every_kind_of_model_runs(keep: Keep, tmp_path: Path, kind: str) -> None:
    keras.utils.set_random_seed(7)
    build, shape = KINDS[kind]
    keep.publish("kind", build(), example=example(kind, shape))
    path = keep.export("kind", "tfjs", tmp_path / "export", custom_objects=OWN)
    kept = keep.load_state("kind", select=["examples/**"])["examples"]["outputs"]
    wanted = [np.asarray(one)[:1].ravel()[:40] for one in keras.tree.flatten(kept)]
    document = run_page(with_libraries(path, tmp_path / "web"), "webgl")
    found = [
        [float(value) for value in re.findall(r"<td>\d+</td><td>([-0-9.e]+)</td>", table)]
        for table in re.findall(r"<table>(.*?)</table>", document, re.DOTALL)
    ]
    assert len(found) == len(wanted)
    tolerance = keep.exports("kind")[0][1]["tolerance"]
    for one, other in zip(wanted, found, strict=True):
        assert np.allclose(one, other, rtol=0, atol=tolerance * np.abs(one).max())
