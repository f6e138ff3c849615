"""What the command says of a keep that is damaged, and where nobody takes its output."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import modelkeep as mk
from modelkeep.cli.main import app
from modelkeep.errors import Damaged
from modelkeep.keep import Keep
from modelkeep.snapshot.canonical import seal

START = [sys.executable, "-c", "from modelkeep.cli import main; main()"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "keep"


@pytest.fixture
def keep(place: Path) -> Keep:
    """A keep with a run of three checkpoints and three rows, written one at a time."""
    keep = mk.open(place)
    with keep.run("digits", params={"lr": 0.1}) as run:
        for step in (1, 2, 3):
            run.log({"loss": 1 / step}, step=step, epoch=step)
            run.save({"w": np.full(3, step)}, step=step, epoch=step, metrics={"loss": 1 / step}, wait=True)
        run.finish({"epochs": 3})
    return keep


def call(*words: str, place: Path) -> Result:
    return CliRunner().invoke(app, [*words, "--keep", str(place)])


def spoil(place: Path, pattern: str) -> list[str]:
    """Write over the records of the run that match; returns their keys."""
    paths = sorted((place / "runs" / "digits").glob(pattern))
    assert paths
    for path in paths:
        path.chmod(0o644)
        path.write_text("junk")
    return [path.relative_to(place).as_posix() for path in paths]


def rewrite(path: Path, **fields: object) -> None:
    """Seal a record anew, with other fields."""
    document = json.loads(path.read_bytes())
    document.pop("digest")
    path.chmod(0o644)
    path.write_bytes(seal({**document, **fields}))


def test_history_shows_the_rows_that_can_be_read_and_names_the_damage(keep: Keep, place: Path) -> None:
    (key,) = spoil(place, "attempts/*/metrics/0000000002.json")
    result = call("history", "digits", place=place)
    assert result.exit_code == 4
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["1", "3"]
    assert result.stderr.count(key) == 1
    as_json = call("history", "digits", "--json", place=place)
    assert as_json.exit_code == 4
    assert [row["step"] for row in json.loads(as_json.stdout)["rows"]] == [1, 3]
    quiet = call("history", "digits", "-q", place=place)
    assert (quiet.exit_code, quiet.stdout) == (4, "loss\n")


def test_history_without_any_row_that_can_be_read_does_not_say_that_there_are_none(keep: Keep, place: Path) -> None:
    spoil(place, "attempts/*/metrics/*.json")
    result = call("history", "digits", place=place)
    assert (result.exit_code, result.stdout) == (4, "")


@pytest.mark.parametrize("words", [["ls"], ["ls", "digits"], ["show", "digits"]])
@pytest.mark.parametrize("options", [[], ["--json"], ["-q"], ["-q", "--json"]], ids=" ".join)
@pytest.mark.parametrize("pattern", ["checkpoints/*.json", "checkpoints/9999999996.json"])
def test_damage_ends_with_4_however_it_is_printed(
    keep: Keep, place: Path, words: Sequence[str], options: Sequence[str], pattern: str
) -> None:
    keys = spoil(place, pattern)
    result = call(*words, *options, place=place)
    assert result.exit_code == 4
    assert [result.stderr.count(key) for key in keys] == [1] * len(keys)
    assert "Traceback" not in result.stderr
    if "--json" in options:
        json.loads(result.stdout)


@pytest.mark.parametrize("words", [["ls"], ["ls", "digits"], ["show", "digits"], ["show", "digits@last"]])
def test_json_wins_over_quiet(keep: Keep, place: Path, words: Sequence[str]) -> None:
    both = call(*words, "-q", "--json", place=place)
    assert both.exit_code == 0
    assert both.stdout == call(*words, "--json", place=place).stdout


def test_a_run_of_which_no_checkpoint_can_be_read_is_damaged_and_not_without_any(keep: Keep, place: Path) -> None:
    spoil(place, "checkpoints/*.json")
    row = call("ls", place=place).stdout.splitlines()[1].split()
    assert row[:3] == ["digits", "damaged", "3"]
    assert "no checkpoints yet" not in call("ls", "digits", place=place).output
    shown = call("show", "digits", place=place).stdout
    assert "none that can be read" in shown
    assert "none yet" not in shown
    result = call("show", "digits@last", place=place)
    assert result.exit_code == 4


def test_show_of_a_run_whose_attempt_cannot_be_read_shows_the_rest(keep: Keep, place: Path) -> None:
    (key,) = spoil(place, "attempts/*/start.json")
    result = call("show", "digits", place=place)
    assert result.exit_code == 4
    assert "step 3, epoch 3" in result.stdout
    assert result.stderr.count(key) == 1
    assert json.loads(call("show", "digits", "--json", place=place).stdout)["attempts"] == []


def test_a_record_of_a_newer_format_ends_verify_with_5_and_with_damage_4(keep: Keep, place: Path) -> None:
    snapshot = keep.snapshot("digits@2")
    path = place / "snapshots" / snapshot.id[:2] / f"{snapshot.id}.json"
    rewrite(path, modelkeep=2)
    result = call("verify", place=place)
    assert result.exit_code == 5
    assert "0 damage" not in result.stdout
    assert "1 of a newer format" in result.stdout
    assert "run:digits@2" in result.stdout
    as_json = call("verify", "--json", place=place)
    assert as_json.exit_code == 5
    found = json.loads(as_json.stdout)
    assert found["ok"] is False
    assert found["damages"] == []
    assert [one["key"] for one in found["newer"]] == [path.relative_to(place).as_posix()]
    spoil(place, "checkpoints/9999999996.json")
    assert call("verify", "-q", place=place).exit_code == 4


def test_all_damages_are_one_error_with_a_line_each(keep: Keep, place: Path) -> None:
    keys = spoil(place, "checkpoints/*.json")
    lines = call("ls", "digits", place=place).stderr.splitlines()
    assert len(lines) == len(keys)
    assert lines[0].startswith(f"modelkeep: {keys[0]}: ")
    with pytest.raises(Damaged):
        keep.load_state("digits@last")


# The keep before the command


def test_the_keep_may_be_named_before_the_command(keep: Keep, place: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["--keep", str(place), "ls", "-q"])
    assert (run.exit_code, run.stdout) == (0, "digits\n")
    mk.open(tmp_path / "other")
    words = ["--keep", str(tmp_path / "other"), "ls", "-q", "--keep", str(place)]
    assert CliRunner().invoke(app, words).stdout == "digits\n"


@pytest.mark.parametrize("words", [["--keep", "", "ls"], ["ls", "--keep", " "], ["--keep", "x", "demo"]])
def test_a_keep_that_is_empty_or_would_be_ignored_is_refused(words: Sequence[str]) -> None:
    assert CliRunner().invoke(app, words).exit_code == 2


def test_the_shell_completes_runs_of_a_keep_before_the_command(keep: Keep, place: Path) -> None:
    line = f"modelkeep --keep {place} ls di"
    variables = {**os.environ, "_MODELKEEP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "4"}
    answer = subprocess.run(START, env=variables, capture_output=True, text=True, check=False)
    assert answer.stdout.split() == ["digits"]


# The output


def shell(line: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell in which ``"$@"`` stands for the command."""
    return subprocess.run(["/bin/sh", "-c", line, "sh", *START, *words], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [["ls"], ["show", "digits", "--json"], ["--help"], ["--version"]])
def test_output_that_cannot_be_written_is_one_line_and_7(keep: Keep, place: Path, words: Sequence[str]) -> None:
    done = shell('"$@" > /dev/full', "--keep", str(place), *words)
    assert done.returncode == 7
    assert done.stderr == "modelkeep: could not write the output: no space left on device; send it elsewhere\n"


@pytest.mark.parametrize(
    ("words", "code"), [(["ls"], 0), (["verify"], 0), (["show", "nothing"], 3), (["--version"], 0)]
)
def test_a_closed_output_leaves_the_exit_code(keep: Keep, place: Path, words: Sequence[str], code: int) -> None:
    done = shell('"$@" >&-', "--keep", str(place), *words)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert shell('"$@" >&- 2>&-', "--keep", str(place), *words).returncode == code


def test_an_error_that_nobody_can_be_told_does_not_go_to_the_output(tmp_path: Path) -> None:
    done = shell('"$@" 2>&-', "ls", "--keep", str(tmp_path / "absent"))
    assert (done.returncode, done.stdout) == (3, "")


def test_a_demo_in_a_file_is_refused_with_7(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("mine")
    result = CliRunner().invoke(app, ["demo", "--folder", str(tmp_path / "file")])
    assert result.exit_code == 7
    assert "--folder" in result.stderr
