"""Labels: given when a model is published, and there wherever it answers."""

import io
import json
import zipfile
from pathlib import Path

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from typer.testing import CliRunner

import modelkeep as mk
from modelkeep.cli.main import app
from modelkeep.errors import Damaged, UsageError
from modelkeep.keep import Keep
from modelkeep.model.signature import Signature
from modelkeep.scan import scan

X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
KINDS = ["cat", "dog", 'a "<fish>"']


def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="x")
    hidden = keras.layers.Dense(5, "relu")(inputs)
    return keras.Model(inputs, {"kind": keras.layers.Dense(3)(hidden), "age": keras.layers.Dense(1)(hidden)})


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    opened = mk.open(tmp_path / "keep")
    opened.publish("pets", model(), example=X, labels={"kind": KINDS})
    return opened


def test_a_prediction_has_the_label_of_its_largest_value(keep: Keep) -> None:
    predictor = keep.predictor("pets", runtime="keras")
    answers = predictor(X)
    assert predictor.labels(answers) == {"kind": [KINDS[one] for one in np.argmax(answers["kind"], -1)]}
    assert predictor.signature.outputs["kind"].labels == tuple(KINDS)
    assert Signature.from_json(predictor.signature.to_json()) == predictor.signature


def test_a_version_that_is_published_again_keeps_them_or_gets_others(keep: Keep) -> None:
    keep.publish("again", "model:pets@1")
    keep.publish("others", "model:pets@1", labels={"kind": ["one", "two", "three"], "age": ["years"]})
    found = {name: keep.predictor(name, runtime="keras").signature.outputs for name in ("again", "others")}
    assert found["again"]["kind"].labels == tuple(KINDS)
    assert found["others"]["kind"].labels == ("one", "two", "three")
    assert found["others"]["age"].labels == ("years",)
    assert keep.load_model("others", check=True) is not None


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"kind": "cat"}, "the labels of kind are 'cat', and a list of lines of text is wanted"),
        ({"sort": KINDS}, "labels are for 'sort', and the model gives kind, age"),
        (KINDS, r"the model gives kind, age; say whose labels they are: \{'kind': \[\.\.\.\]\}"),
        ({"kind": KINDS[:2]}, "2 labels were given for kind, and 3 are wanted"),
        ({"kind": ["a", "b\nc", "d"]}, r"a label of kind is 'b\\nc', and a line of text is wanted"),
        ({"kind": ["a", "", "d"]}, "a label of kind is '', and a line of text is wanted"),
        ({"kind": ["a", 2, "d"]}, "a label of kind is 2, and a line of text is wanted"),
    ],
)
def test_labels_that_do_not_fit_are_refused_and_nothing_is_published(keep: Keep, labels: object, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        keep.publish("pets", model(), labels=labels)  # type: ignore[arg-type]
    assert keep.model("pets").last().number == 1  # type: ignore[union-attr]


def test_labels_that_are_no_text_are_damage() -> None:
    with pytest.raises(Damaged, match="has labels at outputs that are no list of text"):
        Signature.from_json(
            {"inputs": {}, "outputs": {"name": "y", "dtype": "float32", "shape": [None, 2], "labels": [1, 2]}}
        )


def test_the_command_takes_them_from_files_and_shows_them(keep: Keep, tmp_path: Path) -> None:
    (tmp_path / "kinds.txt").write_text("\n".join(KINDS) + "\n", "utf-8")
    np.save(tmp_path / "x.npy", X)
    run = CliRunner().invoke
    where = ["--keep", str(tmp_path / "keep")]
    done = run(app, ["publish", "named", "model:pets@1", "--labels", f"kind={tmp_path / 'kinds.txt'}", *where])
    assert done.exit_code == 0, done.output
    assert "cat, dog" in run(app, ["show", "model:named@1", *where]).output
    done = run(app, ["predict", "named", "--input", str(tmp_path / "x.npy"), "--runtime", "keras", *where])
    told = json.loads(done.stdout)
    assert told["labels"]["kind"] == [KINDS[one] for one in np.argmax(told["outputs"]["kind"], -1)]
    assert run(app, ["publish", "named", "model:pets@1", "--labels", str(tmp_path / "none.txt"), *where]).exit_code == 7
    assert run(app, ["publish", "named", "model:pets@1", "--labels", "a", "--labels", "b", *where]).exit_code == 2


def test_a_tflite_file_has_names_and_labels_as_metadata(keep: Keep, tmp_path: Path) -> None:
    path = keep.export("pets", "litert", tmp_path / "pets.tflite")
    assert scan(path).verdict == "clean"
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["kind_labels.txt"]
        assert archive.read("kind_labels.txt").decode().splitlines() == KINDS
    file = schema.Model.GetRootAs(data)
    ((place,),) = [
        [file.Metadata(at).Buffer() for at in range(file.MetadataLength()) if file.Metadata(at).Name() == one]
        for one in (b"TFLITE_METADATA",)
    ]
    metadata = file.Buffers(place).DataAsNumpy().tobytes()
    assert flatbuffers.util.BufferHasIdentifier(metadata, 0, b"M001")
    for text in (b"pets", b"x", b"kind", b"age", b"kind_labels.txt"):
        assert text in metadata
    predictor = mk.predictor(path)
    np.testing.assert_allclose(predictor(X)["kind"], keep.load_model("pets")(X)["kind"], atol=1e-5)


def test_the_page_of_a_browser_has_them(keep: Keep) -> None:
    from modelkeep.exporters.tfjs_page import page

    text = page("pets", {"x": [[0.0]]}, {"kind": KINDS})
    line = next(one for one in text.splitlines() if one.startswith("const labels = "))
    assert "<" not in line
    assert json.loads(line.removeprefix("const labels = ").removesuffix(";")) == {"kind": KINDS}
