"""What people really train with resumes bit for bit too: each case is killed twenty times, resumed and compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import kill_and_compare

CASES: dict[str, dict[str, Any]] = {
    "weights of samples": {"backend": "jax", "data": "arrays_weighted", "callbacks": "board"},
    "weights of classes, validated every second epoch": {"backend": "tensorflow", "data": "arrays_class_weight"},
    "validation split, shuffled within batches": {"backend": "torch", "data": "arrays_split"},
    "epochs shorter than the data": {"backend": "jax", "data": "arrays_steps"},
    "tensors, a rate that decays by what it was": {
        "backend": "tensorflow",
        "data": "tensors",
        "callbacks": "scheduled",
    },
    "a repeated tf.data with steps_per_epoch": {"backend": "tensorflow", "data": "tf_data_repeated"},
    "a tf.data of unknown length, at epochs": {"backend": "tensorflow", "data": "tf_data_of_unknown_length"},
    "several inputs, outputs and losses": {"backend": "torch", "data": "arrays_of_several", "model": "two_headed"},
    "a PyDataset with threads": {"backend": "tensorflow", "data": "py_dataset_threads"},
    "a PyDataset with processes": {"backend": "torch", "data": "py_dataset_processes"},
    "a DataLoader with augmentations": {"backend": "torch", "data": "loader"},
    "a weighted DataLoader with workers": {"backend": "torch", "data": "loader_weighted_workers"},
    "a StatefulDataLoader with workers": {"backend": "jax", "data": "loader_stateful_workers"},
    "a stream in a DataLoader": {"backend": "tensorflow", "data": "loader_stream"},
    "a stream in a DataLoader with workers": {"backend": "torch", "data": "loader_stream_workers"},
    "a Hugging Face dataset": {"backend": "torch", "data": "loader_hugging_face"},
    "a Grain dataset by index": {"backend": "jax", "data": "grain_map"},
    "a Grain stream": {"backend": "jax", "data": "grain_stream"},
    "a Grain loader": {"backend": "tensorflow", "data": "grain_loader"},
    "low-rank adapters": {"backend": "torch", "data": "arrays", "model": "adapted"},
    "an int8 layer trained through its adapter": {"backend": "torch", "data": "arrays", "model": "quantized"},
    "recurrent layers that carry their state": {"backend": "tensorflow", "data": "arrays_of_20", "model": "recurrent"},
    "the same on jax": {"backend": "jax", "data": "arrays_of_20", "model": "recurrent"},
    "two networks with two optimizers": {
        "backend": "tensorflow",
        "data": "arrays_of_20",
        "model": "adversarial",
        "callbacks": "none",
    },
    "two devices of a mesh": {"backend": "jax", "data": "arrays_of_20", "model": "distributed"},
    "two replicas of tf.distribute": {"backend": "tensorflow", "data": "arrays", "model": "mirrored"},
    "replicas fed by a loader": {"backend": "tensorflow", "data": "loader_weighted_workers", "model": "mirrored"},
    "replicas fed by a tf.data, with averaged weights": {
        "backend": "tensorflow",
        "data": "tf_data",
        "model": "mirrored",
        "optimizer": {"use_ema": True, "ema_momentum": 0.9},
    },
    "replicas fed by a tf.data of unknown length": {
        "backend": "tensorflow",
        "data": "tf_data_of_unknown_length",
        "model": "mirrored",
    },
    "several steps an execution": {
        "backend": "tensorflow",
        "data": "arrays",
        "compile": {"steps_per_execution": 4},
        "every": {"steps": 4, "epochs": 1},
    },
    "mixed_float16 with loss scaling": {"backend": "tensorflow", "data": "arrays", "model": "mixed"},
    "compiled by XLA": {"backend": "tensorflow", "data": "arrays", "compile": {"jit_compile": True}},
    "run eagerly": {"backend": "jax", "data": "arrays", "compile": {"run_eagerly": True}},
    "a subclassed model": {"backend": "tensorflow", "data": "arrays", "model": "subclassed"},
    "a train_step of its own, tensorflow": {"backend": "tensorflow", "data": "arrays", "model": "custom_step"},
    "a train_step of its own, jax": {"backend": "jax", "data": "arrays", "model": "custom_step"},
    "a train_step of its own, torch": {"backend": "torch", "data": "arrays", "model": "custom_step"},
    "files of callbacks": {"backend": "torch", "data": "arrays", "callbacks": "files"},
    "averaged weights": {
        "backend": "tensorflow",
        "data": "arrays",
        "callbacks": "averaged",
        "optimizer": {"use_ema": True, "ema_momentum": 0.9},
    },
    "weights averaged into the model at the end": {
        "backend": "jax",
        "data": "arrays",
        "callbacks": "none",
        "optimizer": {"use_ema": True, "ema_momentum": 0.9, "gradient_accumulation_steps": 2},
    },
}


@pytest.mark.torture
@pytest.mark.parametrize("name", CASES)
def test_twenty_kills_change_no_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Callable[..., None]
) -> None:
    if name == "two devices of a mesh":
        monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    hits = kill_and_compare(CASES[name], tmp_path, kills=20, seed=sum(map(ord, name)))
    tried(len(hits), f"SIGKILLs of a training: {name}", "")
    assert len(hits) == 20
