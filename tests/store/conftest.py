import secrets

import ml_dtypes
import numpy as np
import pytest

from modelkeep.backend import LocalBackend, MemoryBackend
from modelkeep.store import Store


@pytest.fixture(params=["local", "memory"])
def backend(request, tmp_path):
    """An empty place of each kind."""
    return LocalBackend(tmp_path / "keep") if request.param == "local" else MemoryBackend(secrets.token_hex(8))


@pytest.fixture
def store(backend):
    return Store.open(backend)


@pytest.fixture
def local_store(tmp_path):
    return Store.open(LocalBackend(tmp_path / "keep"))


@pytest.fixture
def tree():
    """A state with something of every kind in it; its large array takes three pieces."""
    generator = np.random.default_rng(7)
    return {
        "model": {
            "dense": {"kernel": generator.normal(size=(3000, 1000)).astype("f4"), "bias": np.zeros(1000, "f4")},
            "dense/1": {"kernel": generator.normal(size=(40, 30)).astype(ml_dtypes.bfloat16)},
        },
        "optimizer": {
            "iterations": np.int64(12),
            "kernel": [generator.integers(0, 256, (50, 60), "u1").view(ml_dtypes.float8_e4m3fn), np.zeros((30, 40)).T],
            "bits": generator.integers(-8, 7, 33, "i1").astype(ml_dtypes.int4),
        },
        "data": {
            "vocabulary": np.array([["a", "é"], ["", "\0"]], object),
            "raw": np.array([b"\xff", b""], object),
            "labels": np.array(["one", "seven"]),
            "when": np.array([1, 2], "M8[ns]"),
            "waves": np.array([1 + 2j, np.nan]),
            "empty": np.empty((0, 3), "i2"),
            "big": np.arange(6, dtype=">i8"),
            "iterator": bytes(range(256)) * 40,
        },
        "rng": ("MT19937", 2**100, {3: None, "3": -0.0}),
    }
