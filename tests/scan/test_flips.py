"""No damaged file breaks the scan: whatever bytes change, there is a report, or one of the documented errors."""

import io
import pickle
import zipfile

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save

from modelkeep.errors import UnknownFormat
from modelkeep.scan import scan


def torch_file(**options):
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3)}, buffer, **options)
    return buffer.getvalue()


def hdf5_file():
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["model_config"] = '{"class_name": "Sequential", "config": {"layers": []}}'
        file.create_dataset("a/b", data=np.ones((4, 4)), compression="gzip")
    return buffer.getvalue()


def zip_file():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", '{"class_name": "Sequential", "config": {"layers": []}}')
        archive.writestr("data.pkl", pickle.dumps({"a": np.ones(3)}))
    return buffer.getvalue()


def npz_file():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.ones(5), b=np.array([1, "x"], dtype=object))
    return buffer.getvalue()


FILES = {
    "m.pt": torch_file, "legacy.pt": lambda: torch_file(_use_new_zipfile_serialization=False), "m.keras": zip_file,
    "m.npz": npz_file, "m.safetensors": lambda: save({"a": np.ones(3), "b": np.zeros(2)}),
    "m.pkl": lambda: pickle.dumps({"a": np.ones(3), "b": [1, 2.5, "x"] * 5}, 2), "m.h5": hdf5_file,
}  # fmt: skip


# a file of HDF5 is scanned in a process of its own, which takes a quarter of a second to start
@pytest.mark.parametrize(
    ("name", "turns"),
    [*((name, 30 if name == "m.h5" else 300) for name in FILES), pytest.param("m.h5", 2000, marks=pytest.mark.torture)],
)
@pytest.mark.timeout(1800)
def test_flipped_bits_and_cuts_give_a_report(name, turns, tmp_path):
    data, random = FILES[name](), np.random.default_rng(3)
    for turn in range(turns):
        changed = bytearray(data)
        for at in random.integers(len(data), size=1 + turn % 4):
            changed[at] ^= 1 << int(random.integers(8))
        if turn % 5 == 0:
            del changed[random.integers(len(data)) :]
        (tmp_path / name).write_bytes(changed)
        try:
            report = scan(tmp_path / name)
        except UnknownFormat:
            continue
        assert report.verdict in {"clean", "unsafe", "suspicious", "damaged", "limit"}
