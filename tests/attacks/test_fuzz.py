"""What reads foreign bytes is fuzzed, guided by coverage, from the corpus of attacks: for seconds here, for minutes in
torture. What it finds becomes a case of the corpus."""

import importlib.util
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import torch

import modelkeep as mk
from modelkeep.budget import Budget
from modelkeep.importers.source import File
from modelkeep.importers.sstable import read_table

from . import configs, test_files_keras, test_files_safetensors, test_files_torch
from .wrapping import varint

PROGRAM = Path(__file__).with_name("fuzz.py")
MOST = 1 << 14
"""Bytes of an input: what is found with more is found with less."""

pytestmark = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")


def files(folder):
    """Good files of every format, and those of the corpus."""
    arrays = {"a/kernel": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(2, ">i8"), "c": np.array(["é"])}
    np.savez(folder / "a.npz", **arrays)
    np.savez_compressed(folder / "b.npz", **arrays)
    np.save(folder / "c.npy", arrays["a/kernel"].T)
    state = {"w": torch.ones(2, 3).T, "n": {"b": torch.zeros(4, dtype=torch.bfloat16)}, "step": 3}
    torch.save(state, folder / "d.pt")
    torch.save(state, folder / "e.pt", _use_new_zipfile_serialization=False)
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1, 2])
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [tensor])
    (folder / "f.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    found = [path.read_bytes() for path in sorted(folder.glob("?.*"))]
    found += [data for data, _ in test_files_safetensors.CASES.values()]
    found += [data for data, _ in test_files_torch.CASES.values()]
    return [*found, *(bytes(make(str(folder))) for make, _ in test_files_keras.CASES.values())]


def seeds(target, folder):
    """What the fuzzer starts from: as `fuzz.py` wants it for a target."""
    if target == "weights":
        return files(folder)
    if target == "scan":
        graph = tf.function(
            lambda x: tf.io.read_file("/etc/passwd") + x, input_signature=[tf.TensorSpec([], tf.string)]
        )
        graphs = [graph.get_concrete_function().graph.as_graph_def().SerializeToString()]
        return [bytes([number % 10]) + data for number, data in enumerate(files(folder) + graphs)]
    if target == "torch":
        zips = [data for data in files(folder) if zipfile.is_zipfile(io.BytesIO(data))]
        return [pickled for data in zips for pickled in pickles(data)]
    if target == "checkpoint":
        tf.train.Checkpoint(a=tf.Variable([1.0, 2]), b=[tf.Variable(3), tf.Variable("x")]).write(str(folder / "tf"))
        entries = read_table(File(str(folder / "tf.index")), Budget())
        return [b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in entries)]
    if target == "record":
        keep = mk.open(folder / "keep")
        keep.save_state({"a": np.ones((2, 3), "f4"), "b": [1, None, 2.5, "x", np.zeros(4, "i8")]})
        return [path.read_bytes() for path in (folder / "keep" / "snapshots").rglob("*.json")]
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
    made = [case() for _, case, _ in configs.cases().values()]
    return [text for one in (keras.saving.serialize_keras_object(model), *made) if (text := spelled(one))]


def spelled(value):
    try:
        return json.dumps(value).encode()
    except (RecursionError, TypeError, ValueError):  # some cases are no JSON
        return b""


def pickles(data):
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return [file.read(name) for name in file.namelist() if name.endswith("data.pkl")]
    except Exception:  # noqa: BLE001  the hostile ones
        return []


def fuzz(target, folder, *options):
    """Run a target from its seeds, and return the count of inputs and of what they reached; a finding is an error."""
    corpus, work = folder / "corpus", folder / "work"
    corpus.mkdir()
    work.mkdir()
    for number, data in enumerate(seeds(target, work)):
        if len(data) <= MOST:
            (corpus / f"{number:04}").write_bytes(data)
    line = [sys.executable, PROGRAM, target, corpus, f"-max_len={MOST}", "-timeout=10", "-rss_limit_mb=2000", "-seed=1"]
    done = subprocess.run([*line, *options], cwd=work, capture_output=True, text=True, timeout=3600, check=False)
    found = [path.read_bytes() for kind in ("crash", "oom", "timeout") for path in work.glob(f"{kind}-*")]
    assert not found, f"{found!r:.3000}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, done.stderr[-3000:]
    runs, covered = re.findall(r"#(\d+)\s+DONE\s+cov: (\d+)", done.stderr)[-1]
    return int(runs), int(covered)


@pytest.mark.parametrize("target", ["weights", "torch", "checkpoint", "scan", "record", "architecture"])
@pytest.mark.parametrize(
    "runs", [1_000, pytest.param(1_000_000, marks=[pytest.mark.torture, pytest.mark.timeout(1200)])]
)
def test_what_is_fuzzed_ends_in_an_error_of_ours_or_in_none(target, runs, tmp_path, tried):
    count, covered = fuzz(target, tmp_path, f"-runs={runs}", "-max_total_time=900")
    tried(count, f"inputs that a fuzzer made for {target}", f"{covered:,} edges of the code reached")
    assert covered > 50
