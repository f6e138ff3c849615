"""A keep that format 1 wrote, committed once: it is read, bit for bit, by this version and all that come."""

import math
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from modelkeep.backend import LocalBackend
from modelkeep.snapshot.pieces import digest
from modelkeep.state import differences
from modelkeep.store import Store, find_checkpoint, free
from modelkeep.values import Ref

from .golden.write import ALONE, NEWER, STATES, digits, write_keep

GOLDEN = Path(__file__).parent / "golden" / "v1"
DIGEST = "1b6845ae8090912f0ba8e506eae6bc9a4620899a094213ea8b6ab680eece5091"
"""Of all files, their names and their bytes. It changes never: what was released must be read as it is."""


@pytest.fixture
def golden():
    return Store.open(LocalBackend(GOLDEN, create=False), create=False)


@pytest.fixture
def copied(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "keep")
    return Store.open(LocalBackend(tmp_path / "keep"), create=False)


def files(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def snapshot_ids(folder):
    return {path.stem for path in (folder / "snapshots").rglob("*.json")}


def test_the_committed_files_are_those_that_were_written_then():
    listed = [f"{name} {digest(path.read_bytes())}\n" for name, path in sorted(files(GOLDEN).items())]
    assert digest("".join(listed).encode()) == DIGEST


@pytest.mark.parametrize("ref", STATES)
def test_each_checkpoint_is_read_bit_for_bit(golden, ref):
    if ref == "run:odd@4" and not all(hasattr(ml_dtypes, name) for name in NEWER):
        pytest.skip(f"this version of ml_dtypes lacks one of {', '.join(NEWER)}")
    assert differences(STATES[ref](), golden.load(golden.resolve(ref))) == []


def test_the_bits_that_are_easily_lost_are_there(golden):
    """Compared with literals, not by our own comparison."""
    values = golden.load(golden.resolve("run:odd@2"))
    assert values["nan"].view("u4").tolist() == [0x7FC0_0000, 0xFFC0_0001, 0x7F80_0001, 0x8000_0000, 1]
    assert np.float64(values["floats"][3]).view("u8") == 0xFFF8_0000_0000_0123
    assert math.copysign(1, values["json"][5]) == -1
    assert values["json"][8:10] == [-(2**100), 1 << 5000]
    assert values["tuple"] == ((), ((1,), [(2,)]))
    keys = golden.load(golden.resolve("run:odd@1"))["numbers"]
    assert list(keys) == [-1, 0, 3, 2**80, "3"]


def test_a_state_that_no_run_names_is_read_by_its_id(golden):
    (alone,) = (one for one in snapshot_ids(GOLDEN) if any(ALONE in shard for shard in golden.snapshot(one).shards))
    assert golden.snapshot(alone).meta == {"kind": "state"}
    assert differences(digits(0), golden.load(alone)) == []
    assert differences(digits(0), golden.load(golden.resolve(alone[:8]))) == []


def test_a_part_is_read_alone(golden):
    part = golden.load(golden.resolve("run:digits@40"), select=["model/bias"])
    assert differences({"model": {"bias": np.full(6, 40, "f4")}}, part) == []


def test_attempts_metrics_tombstones_and_the_end_are_read(golden):
    run = golden.run("digits")
    assert golden.runs() == ["digits", "odd"]
    first, second = run.attempts()
    assert first.info == {"params": {"lr": 0.1}, "resumed_from": None, "seed": 7, "writer": "5c329371a426a3ba"}
    assert second.info["resumed_from"]["step"] == 20
    rows = run.metrics()
    assert [(row.attempt, row.step, row.superseded) for row in rows] == [
        (1, 10, False), (1, 20, False), (1, 30, True), (2, 30, False), (2, 40, False),
    ]  # fmt: skip
    assert math.isnan(rows[0].values["loss"])
    assert rows[2].values == {"loss": math.inf, "accuracy": float(np.float32(0.1))}
    checkpoints = run.checkpoints(dropped=True)
    assert [(one.number, one.step, one.attempt, one.exact, one.dropped) for one in checkpoints] == [
        (4, 40, 2, False, False), (3, 30, 2, True, False), (2, 20, 1, True, False), (1, 10, 1, True, True),
    ]  # fmt: skip
    assert run.finished() == {"epochs": 4, "stopped": False}
    assert golden.run("odd").finished() is None
    assert find_checkpoint(golden, Ref.parse("digits@best:loss")).step == 20
    assert first.time < second.time < checkpoints[0].time < first.time + 100


def test_every_byte_of_it_is_whole_and_nothing_is_foreign(golden):
    report = golden.verify()
    assert (report.damages, report.foreign) == ((), ())
    assert report.objects == len(files(GOLDEN))


def test_a_run_of_it_goes_on_with_its_pieces(copied):
    run = copied.run("digits")
    donor = copied.resolve("digits@last")
    snapshot = copied.save(digits(50), meta={"kind": "checkpoint", "step": 50}, donor=donor)
    run.commit_checkpoint(run.start_attempt({}), snapshot, step=50, epoch=5)
    dropped = [one for one in run.checkpoints() if one.number < 5]
    run.drop([one.number for one in dropped])
    free(copied, dropped)
    again = Store.open(copied.backend)
    assert again.verify().damages == ()
    assert differences(digits(50), again.load(again.resolve("digits@50"))) == []


def test_the_same_states_have_the_same_ids_today(tmp_path):
    """What a snapshot is called must not depend on the version that saved it."""
    if not all(hasattr(ml_dtypes, name) for name in NEWER):
        pytest.skip(f"this version of ml_dtypes lacks one of {', '.join(NEWER)}")
    write_keep(tmp_path / "keep")
    assert snapshot_ids(tmp_path / "keep") == snapshot_ids(GOLDEN)
