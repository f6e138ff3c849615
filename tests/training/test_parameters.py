from pathlib import Path

import numpy as np
import pytest

from modelkeep.errors import ParamsChanged, UsageError
from modelkeep.training.parameters import canonical_params, check_params, differences
from modelkeep.training.plain import decode, encode, numbers


def test_a_tuple_is_the_list_that_it_becomes_and_a_float_is_its_value() -> None:
    old = canonical_params({"units": (64, 32), "lr": 1, "k": np.float32(0.5), "n": np.int64(3)})
    new = canonical_params({"units": [64, 32], "lr": 1.0, "k": 0.5, "n": 3})
    assert old is not None
    assert new is not None
    check_params("cnn", old, new)


def test_nan_equals_nan_and_true_is_not_one() -> None:
    assert differences({"fill": float("nan")}, {"fill": float("nan")}) == []
    assert differences({"flag": True}, {"flag": 1}) == [("flag", "True", "1")]


def test_how_long_to_train_may_change() -> None:
    check_params("cnn", {"lr": 0.1, "epochs": 10}, {"lr": 0.1, "epochs": 20})
    with pytest.raises(ParamsChanged):
        check_params("cnn", {"model": {"epochs": 1}}, {"model": {"epochs": 2}})


def test_the_refusal_shows_each_difference_old_and_new_and_the_three_ways_out() -> None:
    with pytest.raises(ParamsChanged) as caught:
        check_params("cnn", {"lr": 0.1, "model": {"depth": 3}}, {"lr": 0.01, "model": {"depth": 3, "width": 8}})
    text = str(caught.value)
    lines = [line.split() for line in text.splitlines()]
    assert ["lr", "0.1", "0.01"] in lines
    assert ["model.width", "(absent)", "8"] in lines
    assert not any("depth" in line for line in text.splitlines())
    assert "new=True" in text
    assert "fork='run:cnn@last'" in text
    assert "old values" in text


def test_a_long_value_is_cut_in_the_table() -> None:
    ((_, old, _),) = differences({"text": "x" * 1000}, {"text": ""})
    assert len(old) == 60


@pytest.mark.parametrize(
    ("params", "place"),
    [({"path": Path("a")}, "params/path"), ({"a": {1: 2}}, "params/a"), ({"f": [print]}, "params/f/0")],
)
def test_a_value_that_json_does_not_have_is_refused_with_its_place(params: dict[str, object], place: str) -> None:
    with pytest.raises(UsageError, match=place):
        canonical_params(params)


def test_params_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(UsageError, match=r"vars\(x\)"):
        canonical_params([("lr", 0.1)])  # type: ignore[arg-type]


def test_a_list_that_holds_itself_is_refused_and_ends() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(UsageError, match="within each other"):
        canonical_params({"loop": loop})


def test_what_json_has_no_number_for_comes_back() -> None:
    value = {"nan": float("nan"), "list": [float("-inf"), 10**30], "$": {"$odd": 1}}
    found = decode(encode(value, "summary"))
    assert np.isnan(found.pop("nan"))
    assert found == {"list": [float("-inf"), 10**30], "$": {"$odd": 1}}


def test_a_metric_that_is_an_array_is_one_number_for_each_item() -> None:
    assert numbers({"f1": np.array([0.25, 1.0]), "one": np.array([3])}) == {"f1/0": 0.25, "f1/1": 1.0, "one": 3.0}
    with pytest.raises(UsageError, match="loss is 'low'"):
        numbers({"loss": "low"})
