"""The commands that publish, list, show, point at and remove models."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import modelkeep as mk
from modelkeep.cli.main import app
from modelkeep.keep import Keep


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    keep = mk.open(tmp_path / "keep")
    model = keras.Sequential([keras.Input((8,), name="image"), keras.layers.Dense(2, name="digit")])
    model.compile("sgd", "mse")
    with keep.run("cnn", seed=1) as run:
        mk.keras.fit(model, np.zeros((8, 8)), np.zeros((8, 2)), epochs=2, verbose=0, run=run)
    keep.publish("digits", model, example=np.ones((2, 8), "float32"), metrics={"accuracy": 0.5})
    return keep


def call(keep: Keep, *words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [*words, "--keep", keep.url])
    assert result.exit_code == code, result.output
    return result


def test_a_checkpoint_is_published_and_an_alias_points_at_it(keep: Keep) -> None:
    found = call(keep, "publish", "digits", "run:cnn@last", "--alias", "champion", "--parent", "digits@1")
    assert found.output == "model:digits@2, and champion points at it\n"
    assert keep.model("digits").version(2).parents[0].number == 1
    document = json.loads(call(keep, "publish", "other", "digits@champion", "--licence", "mit", "--json").stdout)
    assert document["version"] == "model:other@1"
    assert keep.snapshot("other").meta["licence"] == "mit"


def test_a_card_from_a_file_is_the_card(keep: Keep, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# Digits\n")
    call(keep, "publish", "digits", "run:cnn@last", "--card", str(tmp_path / "card.md"))
    assert keep.load_state("digits@2", select="card")["card"] == "# Digits\n"


def test_an_alias_that_cannot_be_is_refused_before_anything_is_published(keep: Keep) -> None:
    call(keep, "publish", "digits", "run:cnn@last", "--alias", "best", code=2)
    assert len(keep.model("digits").versions()) == 1


def test_what_cannot_be_published_says_why(keep: Keep) -> None:
    assert "there is no run nobody" in call(keep, "publish", "digits", "run:nobody@last", code=3).output
    state = keep.save_state({"w": np.ones(2)})
    assert "no model can be made of it" in call(keep, "publish", "digits", state.id, code=2).output


def test_a_training_of_another_tool_is_adopted_shown_and_goes_on(keep: Keep, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    x, y = np.ones((8, 8)), np.ones((8, 2))
    model.fit(x, y, batch_size=4, verbose=0, epochs=3)
    path = str(tmp_path / "old.keras")
    model.save(path)
    text = call(keep, "adopt", path, "--run", "old").output
    assert text.startswith(f"run:old@6 is {path} (keras): step 6, its epoch follows from the length of the data\n")
    assert "  - the random generators\n" in text
    document = json.loads(call(keep, "adopt", path, "--run", "told", "--epoch", "2", "--json").stdout)
    assert (document["step"], document["epoch"], document["kind"]) == (6, 2, "keras")
    assert call(keep, "adopt", path, "--run", "told", "--step", "5", "-q").output == "run:told@5\n"
    assert "old.keras (keras)" in call(keep, "show", "old").output
    assert "there is no such file" in call(keep, "adopt", "no.keras", "--run", "none", code=3).output
    assert "--run" in call(keep, "adopt", path, code=2).output
    with keep.run("old", params={"lr": 1}, seed=5) as run:
        assert mk.keras.fit(model, x, y, batch_size=4, verbose=0, epochs=4, run=run).epoch == [3]
    shown = call(keep, "show", "old").output
    assert "seed               5" in shown
    assert "params.lr" in shown
    assert "trained already" in call(keep, "adopt", path, "--run", "old", code=6).output


def test_models_are_listed_beside_runs(keep: Keep) -> None:
    plain = call(keep, "ls").output
    assert "model:digits@1" in plain
    assert "cnn" in plain
    assert call(keep, "ls", "-q").output == "cnn\nmodel:digits\n"
    assert json.loads(call(keep, "ls", "--json").stdout)["models"][0]["metrics"] == {"accuracy": 0.5}
    assert "model:digits@1" in call(keep, "ls", "digits").output
    assert call(keep, "ls", "model:digits", "-q").output == "model:digits@1\n"
    assert json.loads(call(keep, "ls", "digits", "--json").stdout)["versions"][0]["number"] == 1
    call(keep, "ls", "model:nothing", code=3)


def test_a_version_is_shown_with_its_signature_layers_and_lineage(keep: Keep) -> None:
    call(keep, "publish", "digits", "run:cnn@last", "--alias", "champion")
    shown = call(keep, "show", "digits@champion").output
    for text in (
        "image: float32 [?, 8]",
        "digit: float32 [?, 2]",
        "run:cnn@2",
        "champion",
        "digit        2          18",
    ):
        assert text in shown, text
    document = json.loads(call(keep, "show", "digits@1", "--json").stdout)
    assert document["signature"]["inputs"]["shape"] == [None, 8]
    assert document["card"].startswith("---\n")
    assert call(keep, "show", "digits", "-q").output == "model:digits@2\n"
    assert "model/digit/kernel" in call(keep, "show", "digits@1", "--all").output


def test_an_alias_is_moved_rolled_back_and_taken_away(keep: Keep) -> None:
    call(keep, "publish", "digits", "run:cnn@last", "--alias", "champion")
    call(keep, "alias", "digits", "champion", "1", "--expect", "2", "--reason", "too slow")
    assert "alias champion" in call(keep, "alias", "digits", "champion", "2", "--expect", "2", code=6).output
    moves = json.loads(call(keep, "history", "digits@champion", "--json").stdout)["moves"]
    assert [(one["version"], one["reason"]) for one in moves] == [(1, "too slow"), (2, "")]
    assert "too slow" in call(keep, "history", "digits@champion").output
    call(keep, "alias", "digits", "champion", "0")
    assert call(keep, "alias", "digits").output == "model digits has no aliases\n"
    call(keep, "alias", "digits", "champion", code=2)
    call(keep, "history", "digits@nobody", code=3)


def test_a_version_is_removed_unless_it_is_needed(keep: Keep) -> None:
    call(keep, "publish", "digits", "run:cnn@last", "--alias", "champion", "--parent", "digits@1")
    assert "needed by alias champion" in call(keep, "rm", "digits@2", code=6).output
    assert "needed by model:digits@2" in call(keep, "rm", "digits@1", code=6).output
    call(keep, "alias", "digits", "champion", "0")
    call(keep, "rm", "digits@2")
    call(keep, "rm", "digits@1")
    call(keep, "rm", "digits@last", code=2)
    call(keep, "rm", "digits@7", code=3)
    assert keep.publish("digits", "run:cnn@last").number == 3


def test_a_tensor_is_shown_in_numbers(keep: Keep) -> None:
    found = json.loads(call(keep, "cat", "digits@1", "model/digit/bias", "--json").stdout)
    assert (found["values"], found["zeros"], found["least"]) == (2, 2, 0.0)
    assert "float32" in call(keep, "cat", "digits@1", "model/digit/kernel").output
    assert "is no tensor of digits@1" in call(keep, "cat", "digits@1", "model/digit", code=3).output
    call(keep, "cat", "digits@1", "nothing", code=3)
