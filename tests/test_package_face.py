"""What `modelkeep` and a `Keep` are to somebody who looks at them: in a shell, in a notebook, without a framework."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelkeep as mk
from modelkeep.errors import InvalidRef, StorageError, UsageError

# As after `pip install modelkeep`, whatever is installed here.
BARE = """
import importlib.abc, inspect, pydoc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"keras", "tensorflow", "torch", "jax"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
import modelkeep
"""


def bare(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", BARE + program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_framework_the_package_can_be_looked_at() -> None:
    text = bare("""
assert not hasattr(modelkeep, "keras")
names = {name for name, _ in inspect.getmembers(modelkeep)}
assert set(modelkeep.__all__) <= names, names
assert "keras" not in names
print(pydoc.render_doc(modelkeep))
help(modelkeep)
""")
    assert "training that survives any crash" in text


def test_what_is_missing_is_said_with_the_way_out_and_the_cause() -> None:
    bare("""
try:
    modelkeep.keras.fit
except AttributeError as error:
    assert "pip install 'modelkeep[keras,tensorflow]'" in str(error), error
    assert "needs keras" in str(error), error
    assert isinstance(error.__cause__, ModuleNotFoundError), error.__cause__
else:
    raise AssertionError
""")


@pytest.mark.parametrize("place", [3, b"x", "", "   ", "a\0b", 1.5, ["keep"]], ids=repr)
@pytest.mark.parametrize("create", [True, False])
def test_a_place_that_is_none_is_refused_with_a_way_out(place: Any, create: bool) -> None:
    with pytest.raises(UsageError, match=r"'\./keep', not by .*leave it out"):
        mk.open(place, create=create)


def test_a_path_of_bytes_behind_a_path_object_is_refused() -> None:
    class Path8:
        def __fspath__(self) -> bytes:
            return b"keep"

    with pytest.raises(UsageError):
        mk.open(Path8())  # type: ignore[type-var]


def test_a_checkpoint_names_its_state(tmp_path: Path) -> None:
    keep = mk.open(tmp_path / "keep")
    with keep.run("cnn") as run:
        for step in (1, 2):
            run.save({"step": step}, step=step, epoch=0, wait=True)
    newest, older = keep.store.run("cnn").checkpoints()
    assert keep.load_state(older) == {"step": 1}
    assert keep.snapshot(newest).id == newest.snapshot_id


@pytest.mark.parametrize("ref", [None, 3, b"cnn@last", ["cnn"]], ids=repr)
def test_what_is_no_ref_is_refused(ref: Any) -> None:
    keep = mk.open("memory://no-ref")
    with pytest.raises(InvalidRef, match="run:cnn@last"):
        keep.load_state(ref)


def test_a_keep_whose_runs_cannot_be_listed_still_has_a_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = mk.open("memory://unlisted")

    def refuse(*_: Any) -> Any:
        raise StorageError("could not list <runs>: permission denied")

    monkeypatch.setattr(keep.store.backend, "folders", refuse)
    assert repr(keep) == "Keep('memory://unlisted', its runs cannot be listed)"
    assert "&lt;runs&gt;: permission denied" in keep._repr_html_()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_keep_where_no_folder_can_be_is_refused_with_a_message_that_fits() -> None:
    with pytest.raises(StorageError, match="nothing can be made there; name a keep on a disk"):
        mk.open("/proc/modelkeep/keep")


def test_a_snapshot_in_a_notebook_shows_nested_metadata_unfolded_and_counts_rightly() -> None:
    keep = mk.open("memory://notebook")
    fingerprint = {"packages": {f"package-{n}": "1.0" for n in range(3)}, "settings": {}, "cpu": "<x>"}
    meta: Any = {
        "fingerprint": fingerprint,
        "metrics": {"loss": 0.5, "bad": {"$": "float", "value": "nan"}},
        "tags": [],
    }
    html = keep.save_state({"w": np.ones(3, "f4")}, meta=meta)._repr_html_()
    assert ": 1 tensor, 12 B" in html
    assert "<td>bad nan, loss 0.5</td>" in html
    assert "<summary>3 entries</summary>" in html
    assert "<td>package-0 1.0, package-1 1.0, package-2 1.0</td>" in html
    assert "&lt;x&gt;" in html
    assert "{" not in html
    assert html.count("<td>none</td>") == 2
    many = keep.save_state({f"w{n}": np.ones(1) for n in range(21)})._repr_html_()
    assert ": 21 tensors, " in many
    assert "1 more tensor<" in many
