import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import ml_dtypes
import numpy as np

import modelkeep as mk
from modelkeep.backend import LocalBackend
from modelkeep.snapshot.dtypes import logical_name
from modelkeep.snapshot.pieces import cut
from modelkeep.state import flatten
from modelkeep.store import Store

SCRIPT = Path(__file__).parents[1] / "docs" / "read_snapshot.py"

# Modules of modelkeep are barred, so that what is installed cannot help.
READ = """
import json, sys
sys.modules["modelkeep"] = None
sys.path.insert(0, sys.argv[1])
from read_snapshot import read_snapshot
tree, arrays = read_snapshot(*sys.argv[2:])
shown = {
    path: [str(array.dtype), array.shape, repr(array.tolist()) if array.dtype == object else array.tobytes().hex()]
    for path, array in arrays.items()
}
json.dump([tree, shown], sys.stdout)
"""


def state():
    """Every dtype that a state may have, arrays of several pieces, and the awkward keys."""
    generator = np.random.default_rng(3)
    custom = [name for name in dir(ml_dtypes) if isinstance(getattr(ml_dtypes, name), type)]
    kinds = [np.dtype(kind) for kind in ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]]
    kinds += [np.dtype(kind) for kind in ["c8", "c16", "<U3", "S4", "M8[ns]", "m8[D]", "M8"]]
    kinds += [np.dtype(getattr(ml_dtypes, name)) for name in custom if name not in ("finfo", "iinfo")]
    return {
        "kinds": {kind.str + kind.name: array_of(generator, kind) for kind in kinds},
        "large": generator.normal(size=(3000, 1000)).astype("f4"),
        "turned": generator.normal(size=(70, 50)).T,
        "texts": np.array([["a", "é\0"], ["", "日本"]], object),
        "bytes": np.array([b"\xff", b"", b"x"], object),
        "no texts": np.empty((0, 2), object),
        "scalar": np.float16(1.5),
        "empty": np.empty((3, 0), ml_dtypes.bfloat16),
        "a/b": {"": np.ones(1), "3": np.ones(1), "$x": np.ones(2)},
        5: [1, 1.5, None, "é", (True,)],
        "long": bytes(range(256)) * 20,
    }


def array_of(generator, kind):
    return np.frombuffer(generator.bytes(6 * kind.itemsize), np.uint8).view(kind).reshape(2, 3)


def test_thirty_lines_without_modelkeep_read_a_snapshot_back(tmp_path):
    tree = state()
    snapshot = Store.open(LocalBackend(tmp_path / "keep")).save(tree, meta={"step": 1})
    command = [sys.executable, "-c", READ, str(SCRIPT.parent), str(tmp_path / "keep"), snapshot.id]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""})
    structure, arrays = json.loads(done.stdout)
    flat = flatten(tree)
    assert structure == flat.structure
    assert arrays.keys() == flat.arrays.keys()
    for path, array in flat.arrays.items():
        dtype, shape, values = arrays[path]
        assert shape == list(array.shape), path
        if array.dtype.kind == "O":
            assert (dtype, values) == ("object", repr(array.tolist())), path
        else:
            assert np.dtype(array.dtype).newbyteorder("<") == array.dtype
            assert values == b"".join(bytes(piece.data) for piece in cut(array)).hex(), path
            assert dtype in (str(array.dtype), logical_name(array)), path


def test_the_script_prints_what_a_snapshot_holds(tmp_path):
    snapshot = Store.open(LocalBackend(tmp_path / "keep")).save({"w": np.ones((2, 3), "f4"), "epoch": 3}, meta={})
    command = [sys.executable, str(SCRIPT), str(tmp_path / "keep"), snapshot.id]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"epoch": 3' in done.stdout
    assert "w float32 (2, 3)" in done.stdout


def test_the_script_has_about_thirty_lines():
    lines = [line for line in SCRIPT.read_text().splitlines() if line.strip()]
    assert len(lines) <= 36


def test_a_version_is_found_and_predicts_without_modelkeep_or_a_framework(tmp_path):
    keep = mk.open(tmp_path / "keep")
    inside = [keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(10, "softmax", name="digit")]
    model = keras.Sequential([keras.Input((5,), name="image"), *inside])
    for _ in range(2):
        keep.publish("digits", model, example=np.random.default_rng(0).random((4, 5), "f4"))
    keep.alias("digits", "champion", 1)
    keep.alias("digits", "champion", 2)
    names = ["modelkeep", "keras", "tensorflow", "torch", "jax"]
    barred = f"import sys, runpy\nfor name in {names}: sys.modules[name] = None\n"
    program = f"{barred}sys.argv = sys.argv[1:]\nsys.path.insert(0, {str(SCRIPT.parent)!r})\n"
    for ref in ("digits@champion", "digits@1", "digits"):
        line = [sys.executable, "-c", f"{program}runpy.run_path(sys.argv[0], run_name='__main__')"]
        line += [str(SCRIPT.parent / "predict.py"), str(tmp_path / "keep"), ref]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "largest difference" in done.stdout
