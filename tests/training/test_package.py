import subprocess
import sys

import pytest

import modelkeep


def test_the_public_list_is_sorted_and_every_name_of_it_is_there() -> None:
    assert modelkeep.__all__ == sorted(modelkeep.__all__)
    assert len(set(modelkeep.__all__)) == len(modelkeep.__all__)
    for name in modelkeep.__all__:
        assert getattr(modelkeep, name).__name__.rpartition(".")[2] == name
    assert {*modelkeep.__all__, "keras", "__version__"} <= set(dir(modelkeep))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'modelkeep' has no attribute 'opne'"):
        modelkeep.opne  # noqa: B018


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import modelkeep", ["numpy", "blake3", "rich", "typer", "keras", "tensorflow", "torch", "jax"]),
        ("from modelkeep import *", ["typer", "keras", "tensorflow", "torch", "jax"]),
        ("import modelkeep as mk; mk.open('memory://x').run('y').close()", ["keras", "tensorflow", "torch", "jax"]),
    ],
)
def test_nothing_is_imported_before_it_is_used(program: str, absent: list[str]) -> None:
    check = f"import sys; found = set({absent}) & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", f"{program}\n{check}"], check=True)
