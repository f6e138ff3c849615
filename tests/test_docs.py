"""The documentation lags behind nothing: commands, public names, exit codes, examples, links."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import modelkeep
from modelkeep import errors
from modelkeep.cli.main import app
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.canonical import canonical_json, unseal
from modelkeep.training.interrupt import EXIT_SAVED

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md"), *(ROOT / "requirements").glob("*.md")])
COMMANDS = sorted(get_command(app).commands)
OPTIONS = sorted(
    {(name, option) for name, one in get_command(app).commands.items() for part in one.params for option in part.opts}
)
CLASSES = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.ModelkeepError)]


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command):
    assert f"`modelkeep {command}" in text_of("docs/commands.md")
    assert f"modelkeep {command}" in text_of("README.md")


@pytest.mark.parametrize(("command", "option"), [pair for pair in OPTIONS if pair[1].startswith("--")])
def test_every_option_is_documented(command, option):
    general, table = text_of("docs/commands.md").split("| command |")
    row = next(line for line in table.splitlines() if f"`modelkeep {command}" in line)
    assert option in row or option in general or option == "--quiet", f"modelkeep {command} {option}"


@pytest.mark.parametrize(
    "name", [*modelkeep.__all__, "keras.fit", "keras.Checkpoint", "lightning.Checkpoint", "transformers.train"]
)
def test_every_public_name_is_documented(name):
    assert re.search(rf"`mk\.{re.escape(name)}\b", text_of("docs/api.md"))


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_is_documented_with_its_exit_code_and_kind(error):
    row = f"| {error.exit_code} | `{error.__name__}` | `{error.kind}` |"
    assert row in text_of("docs/exit-codes.md")


def test_every_other_exit_code_is_documented():
    for code in (EXIT_SAVED, 130, 141):
        assert f"\n| {code} |" in text_of("docs/exit-codes.md")


def runnable_blocks():
    return re.findall(r"```python runnable\n(.*?)```", text_of("README.md"), re.DOTALL)


@pytest.mark.parametrize("index", range(len(runnable_blocks())))
def test_every_example_of_the_readme_that_says_so_runs_twice(index, tmp_path):
    line = [sys.executable, "-c", runnable_blocks()[index]]
    for _ in range(2):  # a run that is finished, or a state that is there, is met again
        done = subprocess.run(line, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "keep" / "keep.json").exists()


def examples_of_the_spec():
    blocks = re.findall(r"```json\n(.*?)```", text_of("docs/spec/v1.md"), re.DOTALL)
    return [document for document in map(json.loads, blocks) if "digest" in document]


@pytest.mark.parametrize("document", examples_of_the_spec(), ids=lambda document: ",".join(document)[:40])
def test_every_sealed_example_of_the_format_is_one(document):
    sealed = canonical_json(document)
    assert unseal(sealed, "example") == {name: value for name, value in document.items() if name != "digest"}
    if "logical" in document:
        assert Snapshot.from_json(sealed).id == document["id"]


def test_the_format_shows_each_kind_of_object():
    assert len(examples_of_the_spec()) == 11


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
