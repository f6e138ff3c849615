import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from modelkeep.training.environment import DIFF_BYTES, capture

PROGRAM = """
import json
from modelkeep.training.environment import capture
print(json.dumps(capture()))
"""


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "train.py").write_text(PROGRAM)
    (folder / "settings.py").write_text("lr = 0.1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def run_in(folder: Path, *words: str, **variables: str) -> dict[str, object]:
    environment = {**os.environ, **variables}
    # From elsewhere: it is the code's repository that counts, not the directory that one happens to stand in.
    command = [sys.executable, str(folder / "train.py"), *words]
    answer = subprocess.run(command, capture_output=True, check=True, env=environment, cwd="/")
    found: dict[str, object] = json.loads(answer.stdout)
    return found


def test_commit_and_uncommitted_changes_of_the_code_are_recorded(repository: Path) -> None:
    clean = run_in(repository)["git"]
    assert isinstance(clean, dict)
    assert len(str(clean["commit"])) == 40
    assert (clean["dirty"], clean["diff"]) == (False, None)
    (repository / "settings.py").write_text("lr = 0.2\n")
    (repository / "new.py").write_text("")
    dirty = run_in(repository)["git"]
    assert isinstance(dirty, dict)
    assert dirty["commit"] == clean["commit"]
    assert "+lr = 0.2" in str(dirty["diff"])
    assert dirty["untracked"] == ["new.py"]


def test_no_secret_of_command_variables_remote_or_diff_is_recorded(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "https://me:hunter2@example.org/x.git")
    (repository / "settings.py").write_text('password = "hunter2"\n')
    found = run_in(repository, "--api-key=hunter2", "--token", "hunter2", TF_PASSWORD="hunter2", HOME_KEY="hunter2")
    text = json.dumps(found)
    assert "hunter2" not in text
    assert "example.org/x.git" in text
    assert "HOME_KEY" not in text


def test_a_large_diff_is_cut(repository: Path) -> None:
    (repository / "settings.py").write_text("lr = 0.1\n" * (DIFF_BYTES // 4))
    found = run_in(repository)["git"]
    assert isinstance(found, dict)
    assert found["diff_cut"] is True
    assert len(str(found["diff"])) <= DIFF_BYTES


def test_a_strangers_repository_runs_no_program_of_its_own(repository: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    script = tmp_path / "trap.sh"
    script.write_text(f"#!/bin/sh\ntouch {trap}\n")
    script.chmod(0o755)
    for name in ("core.fsmonitor", "diff.external", "diff.x.textconv", "core.pager", "core.sshCommand"):
        git(repository, "config", name, str(script))
    (repository / ".gitattributes").write_text("*.py diff=x\n")
    (repository / "settings.py").write_text("lr = 0.3\n")
    assert run_in(repository)["git"] is not None
    assert not trap.exists()


def test_without_git_or_a_repository_the_rest_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    assert run_in(tmp_path)["git"] is None
    found = run_in(tmp_path, PATH="/nowhere")
    assert found["git"] is None
    packages = found["packages"]
    assert isinstance(packages, dict)
    assert packages["numpy"] == metadata.version("numpy")


def test_the_record_is_json_and_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    found = capture()
    json.dumps(found, allow_nan=False)
    assert isinstance(found["variables"], dict)
    assert found["variables"]["SLURM_JOB_ID"] == "42"
    assert isinstance(found["command"], list)
    assert found["command"][1:] == sys.orig_argv[1:]
