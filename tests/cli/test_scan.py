"""`modelkeep scan`: the verdict first, then where, what and why, then what to do; and the code that it ends with."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from modelkeep.cli.main import app

HEADER = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,)}"


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["scan", *map(str, words)])


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps([eval, print]))
    return path


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.ones(3))
    return tmp_path / "a.npy"


def test_a_clean_file_ends_with_0_and_one_line(clean: Path) -> None:
    result = call(clean)
    assert result.exit_code == 0
    assert (
        result.stdout
        == f"{clean} (NumPy array, 1 file and members): nothing in it runs code, opens other files or hides anything\n"
    )


def test_an_unsafe_file_ends_with_10_and_says_verdict_table_and_way_out(hostile: Path) -> None:
    result = call(hostile)
    assert result.exit_code == 10
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{hostile} (pickle, ")
    assert ": unsafe: " in lines[0]
    assert lines[2].split() == ["severity", "where", "what", "why"]
    assert any("imports builtins.eval" in line for line in lines)
    assert lines[-1].startswith("what to do: load weights only")


def test_json_has_every_finding(hostile: Path) -> None:
    result = call(hostile, "--json")
    assert result.exit_code == 10
    found = json.loads(result.stdout)
    assert found["verdict"] == "unsafe"
    assert found["kind"] == "pickle"
    assert [one["what"] for one in found["findings"]] == ["imports builtins.eval", "imports builtins.print"]
    assert set(found["findings"][0]) == {"where", "what", "severity", "why", "way_out"}


def test_quiet_prints_the_places_alone(hostile: Path, clean: Path) -> None:
    result = call(hostile, "-q")
    assert result.exit_code == 10
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["model.pkl", "model.pkl"]
    assert call(clean, "-q").stdout == ""


def test_a_folder_is_scanned_as_a_whole(hostile: Path, clean: Path, tmp_path: Path) -> None:
    result = call(tmp_path)
    assert result.exit_code == 10
    assert "(folder, 2 files and members)" in result.stdout


@pytest.mark.parametrize(
    ("data", "name", "code"),
    [
        (b"just some notes on a model\n", "notes", 5),
        (pickle.dumps(np.ones(3))[:-10], "x.pkl", 4),
        (b"\x93NUMPY\x01\x00" + bytes([len(HEADER), 0]) + HEADER, "x.npy", 9),
        (pickle.dumps([1, 2, 3]), "weights.txt", 10),
    ],
)
def test_each_other_verdict_has_its_code(data: bytes, name: str, code: int, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    result = call(tmp_path / name)
    assert result.exit_code == code, result.output


def test_a_missing_file_ends_with_3(tmp_path: Path) -> None:
    result = call(tmp_path / "absent")
    assert result.exit_code == 3
    assert "no such file" in result.stderr


def test_names_of_a_stranger_cannot_rewrite_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2J.pkl").write_bytes(pickle.dumps(eval))
    assert "\x1b" not in call(tmp_path).stdout
