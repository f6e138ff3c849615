"""What each command prints, and the code it ends with."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import modelkeep as mk
from modelkeep.cli.main import app
from modelkeep.errors import (
    Conflict,
    Damaged,
    LimitExceeded,
    ModelkeepError,
    NotExact,
    NotFound,
    StorageError,
    UnknownFormat,
    Unsafe,
    UsageError,
)
from modelkeep.keep import Keep

COMMANDS = ("ls", "show", "history", "verify", "gc", "doctor", "scan", "demo")
START = [sys.executable, "-c", "from modelkeep.cli import main; main()"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "keep"


@pytest.fixture
def keep(place: Path) -> Keep:
    """A keep with a finished run of three checkpoints, and one that was interrupted and resumed."""
    keep = mk.open(place)
    with keep.run("digits", params={"lr": 0.1, "epochs": 3}, seed=7) as run:
        for epoch in range(1, 4):
            run.log({"loss": 1 / epoch, "bad": float("nan")}, step=10 * epoch, epoch=epoch - 1)
            run.save(state(epoch), step=10 * epoch, epoch=epoch, metrics={"loss": 1 / epoch})
        run.finish({"epochs": 3})
    for _ in range(2):
        with keep.run("stopped") as run:
            run.log({"loss": 9.0}, step=5, epoch=0)
            if run.resumed is None:
                run.save(state(0), step=4, epoch=0)
    return keep


def state(epoch: int) -> dict[str, object]:
    weights = {"kernel": np.full((4, 3), epoch, np.float32), "bias": np.zeros(3, np.float32)}
    return {"model": weights, "optimizer": {"iteration": np.int64(epoch)}, "training": {"epoch": epoch, "stop": False}}


def call(*words: str, place: Path | None = None) -> Result:
    options = ["--keep", str(place)] if place is not None else []
    return CliRunner().invoke(app, [*words, *options])


def read(*words: str, place: Path) -> object:
    result = call(*words, "--json", place=place)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout, parse_constant=pytest.fail)


def columns(result: Result, *wanted: int) -> list[list[str]]:
    """Some columns of plain output, without its head."""
    return [[line.split()[index] for index in wanted] for line in result.stdout.splitlines()[1:]]


def damage(place: Path) -> Path:
    """Flip one bit of the largest shard."""
    path = max(place.rglob("*.safetensors"), key=lambda one: one.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    return path


# ls


def test_ls_lists_each_run_with_its_state_and_progress(keep: Keep, place: Path) -> None:
    result = call("ls", place=place)
    assert result.exit_code == 0
    assert columns(result, 0, 1, 2, 3, 4) == [
        ["digits", "finished", "3", "30", "3"],
        ["stopped", "interrupted", "1", "4", "0"],
    ]
    found = read("ls", place=place)
    assert isinstance(found, dict)
    assert [one["metrics"] for one in found["runs"]] == [{"loss": 1 / 3}, {}]


def test_ls_of_a_run_lists_its_checkpoints_newest_first(keep: Keep, place: Path) -> None:
    result = call("ls", "digits", place=place)
    assert columns(result, 0) == [["run:digits@30"], ["run:digits@20"], ["run:digits@10"]]
    assert call("ls", "run:digits", "-q", place=place).stdout.split() == [
        "run:digits@30",
        "run:digits@20",
        "run:digits@10",
    ]
    found = read("ls", "digits", place=place)
    assert isinstance(found, dict)
    assert [one["step"] for one in found["checkpoints"]] == [30, 20, 10]


def test_what_retention_let_go_is_listed_on_request(keep: Keep, place: Path) -> None:
    with keep.run("digits") as run:
        run.retain = mk.retain(last=1)
        run.save(state(4), step=40, epoch=4)
    assert len(columns(call("ls", "digits", place=place), 0)) == 1
    assert "(dropped)" in call("ls", "digits", "--dropped", place=place).stdout
    assert len(columns(call("ls", "digits", "--dropped", place=place), 0)) == 4


def test_an_empty_keep_says_so(place: Path) -> None:
    mk.open(place)
    assert "no runs and no models yet" in call("ls", place=place).stdout
    assert call("ls", "-q", place=place).stdout == ""


def test_a_typing_error_in_a_run_is_answered_with_close_names(keep: Keep, place: Path) -> None:
    for words in (["ls", "digist"], ["history", "digist"], ["show", "digist"], ["show", "digist@last"]):
        result = call(*words, place=place)
        assert result.exit_code == 3
        assert "digits" in result.stderr
        assert result.stdout == ""


# show


def test_show_of_a_run_tells_seed_parameters_and_attempts(keep: Keep, place: Path) -> None:
    text = call("show", "digits", place=place).stdout
    for part in ("finished", "seed", "params.lr", "0.1", "step 30, epoch 3", "the beginning"):
        assert part in text
    found = read("show", "stopped", place=place)
    assert isinstance(found, dict)
    assert [one["number"] for one in found["attempts"]] == [1, 2]
    assert found["attempts"][1]["resumed_from"]["step"] == 4


@pytest.mark.parametrize("ref", ["digits@last", "run:digits@30", "digits@epoch:3", "digits@best:loss"])
def test_show_of_a_snapshot_lists_metadata_tensors_and_json_state(keep: Keep, place: Path, ref: str) -> None:
    lines = [line.split() for line in call("show", ref, place=place).stdout.splitlines()]
    assert ["model/kernel", "float32", "[4,", "3]", "48", "B"] in lines
    assert ["optimizer", "1", "8", "B"] in lines
    assert ["training/epoch", "3"] in lines
    assert ["metrics.loss", repr(1 / 3)] in lines
    found = read("show", ref, place=place)
    assert isinstance(found, dict)
    assert found["id"] == keep.snapshot(ref).id
    assert {"path": "model/bias", "dtype": "float32", "shape": [3], "nbytes": 12} in found["tensors"]


def test_show_finds_a_snapshot_by_the_first_digits_of_its_id(keep: Keep, place: Path) -> None:
    snapshot = keep.save_state({"answer": 42})
    assert call("show", snapshot.id[:10], "-q", place=place).stdout.strip() == snapshot.id


def test_a_ref_may_name_its_keep(keep: Keep, place: Path) -> None:
    assert call("show", f"{place}#digits@last", "-q").stdout.strip() == keep.snapshot("digits@last").id


def test_control_characters_of_a_stored_text_do_not_reach_the_terminal(place: Path) -> None:
    keep = mk.open(place)
    snapshot = keep.save_state({"note": "\x1b]0;owned\x07"}, meta={"title": "\x1b[2J"})
    result = call("show", snapshot.id, place=place)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout


# history


def test_history_shows_each_row_and_marks_what_is_superseded(keep: Keep, place: Path) -> None:
    result = call("history", "stopped", place=place)
    assert [line.endswith("superseded") for line in result.stdout.splitlines()[1:]] == [True, False]
    assert len(columns(call("history", "stopped", "--current", place=place), 0)) == 1
    assert sorted(call("history", "digits", "-q", place=place).stdout.split()) == ["bad", "loss"]


def test_history_as_json_has_null_where_a_metric_is_nan(keep: Keep, place: Path) -> None:
    found = read("history", "digits", place=place)
    assert isinstance(found, dict)
    assert found["rows"][0]["values"] == {"loss": 1.0, "bad": None}


# verify


def test_verify_of_a_whole_keep_ends_with_0(keep: Keep, place: Path) -> None:
    assert "every byte is as it was written" in call("verify", place=place).stdout
    assert call("verify", "-q", place=place).output == ""


def test_verify_names_each_damaged_tensor_and_ends_with_4(keep: Keep, place: Path) -> None:
    path = damage(place)
    result = call("verify", place=place)
    assert result.exit_code == 4
    assert path.name in result.stdout
    assert "run:" in result.stdout
    as_json = call("verify", "--json", place=place)
    assert as_json.exit_code == 4
    found = json.loads(as_json.stdout)
    assert found["ok"] is False
    assert found["damages"][0]["tensors"]
    quiet = call("verify", "-q", place=place)
    assert (quiet.exit_code, quiet.stdout) == (4, "")


def test_a_damaged_checkpoint_record_is_named_and_the_others_are_listed(keep: Keep, place: Path) -> None:
    (path, *_) = sorted((place / "runs/digits/checkpoints").iterdir())
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-3])
    result = call("ls", "digits", place=place)
    assert result.exit_code == 4
    assert [row[0] for row in columns(result, 0)] == ["run:digits@20", "run:digits@10"]
    assert path.name in result.stderr
    both = call("ls", place=place)
    assert both.exit_code == 4
    assert [row[0] for row in columns(both, 0)] == ["digits", "stopped"]


# gc


def test_gc_deletes_nothing_without_yes(place: Path) -> None:
    keep = mk.open(place)
    snapshot = keep.store.save(state(1), meta={"kind": "checkpoint"})
    assert call("gc", place=place).stdout == "2 younger than 24 hours stay\nnothing to delete\n"
    for path in place.rglob("*"):
        os.utime(path, (1e9, 1e9))
    before = sorted(place.rglob("*"))
    result = call("gc", place=place)
    assert result.exit_code == 0
    assert "would delete 2 objects" in result.stdout
    assert len(call("gc", "-q", place=place).stdout.split()) == 2
    assert sorted(place.rglob("*")) == before
    assert "deleted 2 objects" in call("gc", "--yes", place=place).stdout
    with pytest.raises(NotFound):
        keep.snapshot(snapshot.id)


def test_a_grace_of_less_than_a_day_is_refused(keep: Keep, place: Path) -> None:
    assert call("gc", "--grace-hours", "1", place=place).exit_code == 2


def test_gc_that_deletes_with_a_run_open_elsewhere_ends_with_6(place: Path) -> None:
    body = (
        "import modelkeep as mk, sys; run = mk.open(sys.argv[1]).run('cnn'); print('on', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", body, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        assert call("gc", place=place).exit_code == 0
        result = call("gc", "--yes", place=place)
        assert result.exit_code == 6
        assert f"process {process.pid}" in result.stderr
        assert columns(call("ls", place=place), 0, 1) == [["cnn", "running"]]


# The keep


def test_the_keep_is_the_option_then_the_variable_then_the_folder(
    keep: Keep, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("ls", "-q").stdout.split() == ["digits", "stopped"]
    mk.open(tmp_path / "other").run("else").close()
    monkeypatch.setenv("MODELKEEP_KEEP", str(tmp_path / "other"))
    assert call("ls", "-q").stdout.split() == ["else"]
    assert call("ls", "-q", place=place).stdout.split() == ["digits", "stopped"]


@pytest.mark.parametrize("words", [["ls"], ["ls", "x"], ["show", "x"], ["history", "x"], ["verify"], ["gc"]])
def test_places_that_are_no_keep_end_with_a_code_and_one_line_and_nothing_is_made(
    words: Sequence[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    newer = tmp_path / "newer"
    mk.open(newer)
    path = newer / "keep.json"
    from modelkeep.snapshot.canonical import seal

    path.chmod(0o644)
    path.write_bytes(seal({"modelkeep": 99, "id": "x"}))
    for name, code in (("absent", 3), ("file", 7), ("folder", 5), ("newer", 5)):
        result = call(*words, place=tmp_path / name)
        assert result.exit_code == code, (name, result.output)
        assert result.stdout == ""
        assert result.stderr.startswith("modelkeep: ")
        assert "Traceback" not in result.stderr
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder", "newer"]


def test_a_missing_keep_is_answered_with_how_to_name_one(tmp_path: Path) -> None:
    result = call("ls", place=tmp_path / "absent")
    assert "--keep" in result.stderr
    assert "$MODELKEEP_KEEP" in result.stderr


# Help and exit codes


def test_the_help_of_each_command_ends_with_its_exit_codes() -> None:
    for command in COMMANDS:
        text = " ".join(call(command, "--help").stdout.split())
        assert "Exit codes: 0 done; " in text
        assert "130 ended by Ctrl-C." in text
        assert text.index("Exit codes") > text.index("--help")
    assert all(f" {command} " in call("--help").stdout for command in COMMANDS)


def test_the_codes_in_the_help_are_those_of_the_errors() -> None:
    from modelkeep.cli.exits import exit_codes

    kinds: list[type[ModelkeepError]] = [
        ModelkeepError,
        UsageError,
        NotFound,
        Damaged,
        UnknownFormat,
        Conflict,
        StorageError,
        NotExact,
        LimitExceeded,
        Unsafe,
    ]
    text = exit_codes(*(kind.exit_code for kind in kinds))
    assert [part.split()[0] for part in text.removeprefix("Exit codes: ").split(";")] == [
        *map(str, range(11)),
        "130",
    ]


@pytest.mark.parametrize("words", [["frobnicate"], ["ls", "--wrong"], ["show"], ["show", "a@@b"], ["ls", "a b"]])
def test_a_wrong_call_ends_with_2(words: Sequence[str], keep: Keep, place: Path) -> None:
    assert call(*words, place=place if words[0] in COMMANDS else None).exit_code == 2


def test_version_prints_one_line() -> None:
    assert call("--version").stdout == f"modelkeep {mk.__version__}\n"


# In processes of their own


def test_help_and_version_import_no_framework_and_no_numpy() -> None:
    program = """
import sys
from modelkeep.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"numpy", "tensorflow", "keras", "torch", "jax", "ml_dtypes", "blake3"} & set(sys.modules)
assert not heavy, heavy
"""
    for words in (["--help"], ["ls", "--help"], ["demo", "--help"], ["--version"]):
        subprocess.run([sys.executable, "-c", program, *words], check=True, stdout=subprocess.DEVNULL)


def test_reading_a_keep_imports_no_framework(keep: Keep, place: Path) -> None:
    program = """
import sys
from modelkeep.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert not {"tensorflow", "keras", "torch", "jax"} & set(sys.modules)
"""
    for words in (["ls"], ["show", "digits@last"], ["history", "digits"], ["verify"], ["gc"]):
        subprocess.run([sys.executable, "-c", program, *words, "--keep", place], check=True, stdout=subprocess.DEVNULL)


def test_a_closed_pipe_is_silent(keep: Keep, place: Path) -> None:
    keep.save_state({"values": {f"v{index}": index for index in range(20_000)}})
    ref = next(place.glob("snapshots/*/*.json"))
    for path in place.glob("snapshots/*/*.json"):
        ref = max(ref, path, key=lambda one: one.stat().st_size)
    command = [*START, "show", ref.stem, "--keep", str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_ctrl_c_ends_with_130_without_a_traceback(place: Path) -> None:
    program = """
import signal, sys
from modelkeep.cli import main
from modelkeep.store import Store

def verify(self, on_progress=None):
    print("reading", flush=True)
    signal.pause()

Store.verify = verify
main()
"""
    mk.open(place)
    command = [sys.executable, "-c", program, "verify", "--keep", str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 130


def on_terminal(*words: str) -> tuple[int, str]:
    """Run the command as a person sees it: on a terminal of 100 columns."""
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"COLUMNS": "100", "TERM": "xterm"}
        os.execv(START[0], [*START, *words])
    text = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other end has closed
            break
        if not part:
            break
        text += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text.decode()


def test_a_terminal_gets_tables_and_a_progress_bar_and_a_pipe_gets_neither(keep: Keep, place: Path) -> None:
    code, text = on_terminal("ls", "--keep", str(place))
    assert code == 0
    assert "\x1b[" in text
    assert "─" in text
    code, text = on_terminal("verify", "--keep", str(place))
    assert code == 0
    assert "reading" in text
    assert "every byte is as it was written" in text
    code, text = on_terminal("history", "digits", "--keep", str(place))
    assert "█" in text
    plain = call("verify", place=place)
    assert "reading" not in plain.output
    assert "\x1b" not in call("ls", place=place).output


def test_the_shell_completes_runs_of_the_keep_that_the_line_names(keep: Keep, place: Path) -> None:
    line = f"modelkeep ls --keep {place} di"
    variables = {**os.environ, "_MODELKEEP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "4"}
    answer = subprocess.run(START, env=variables, capture_output=True, text=True, check=False)
    assert answer.stdout.split() == ["digits"]
