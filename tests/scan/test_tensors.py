"""Safetensors: clean when a real writer made it; each way to hide something in it is said."""

import json
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from safetensors.torch import save as save_torch

import modelkeep as mk
from modelkeep.budget import Budget
from modelkeep.scan import scan


def made(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(start=0, stop=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


CASES = {
    "a hole": (made({"a": tensor(4, 12)}, b"\0" * 12), "suspicious"),
    "an overlap": (made({"a": tensor(), "b": tensor(4, 12)}, b"\0" * 12), "suspicious"),
    "bytes behind": (made({"a": tensor()}) + b"#!/bin/sh", "suspicious"),
    "a name twice": (made(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},' * 1
                          + b'"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}'), "suspicious"),
    "a header longer than the file": (struct.pack("<Q", 1 << 38) + b"{}", "damaged"),
    "no JSON": (made(b'{"a": '), "damaged"),
    "deep JSON": (made(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "limit"),
    "a shape that does not fit": (made({"a": tensor(shape=(3,))}), "damaged"),
    "a shape that overflows": (made({"a": tensor(shape=(2**40, 2**40))}), "damaged"),
    "a negative shape": (made({"a": tensor(shape=(-2, -1))}), "damaged"),
    "offsets that go back": (made({"a": tensor(8, 0)}), "damaged"),
    "a dtype of its own": (made({"a": tensor(dtype="PICKLE")}), "damaged"),
    "cut short": (made({"a": tensor()})[:-1], "damaged"),
    "metadata that are no texts": (made({"a": tensor(), "__metadata__": {"x": 1}}), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_lie_of_a_header_is_said(case, scanned):
    data, verdict = CASES[case]
    report = scanned(data, "x.safetensors")
    assert (report.kind, report.verdict) == ("safetensors", verdict), report


def test_a_header_beyond_the_budget_is_not_parsed(scanned):
    data = made({f"t{index}": tensor(0, 0, shape=(0,)) for index in range(1000)}, b"")
    assert scanned(data, "x.safetensors").verdict == "clean"
    assert scanned(data, "x.safetensors", Budget(text=1000)).verdict == "limit"
    assert scanned(data, "x.safetensors", Budget(entries=100)).verdict == "limit"


def test_safetensors_that_is_a_pickle_too_is_unsafe(scanned):
    """The length of the header is a pickle's opcodes, which jump over the header to a call behind it."""
    payload = b"cos\nsystem\n(S'true'\ntR."
    length = 0x0258_0280  # a pickle of protocol 2, and a text of two bytes
    head = struct.pack("<Q", length)
    assert head == b"\x80\x02X\x02\0\0\0\0"
    data = head + b"{" + payload + b" " * 100
    assert scanned(data, "x.safetensors").verdict == "unsafe"


def test_files_of_the_real_writers_are_clean(scanned):
    arrays = {"a": np.ones((3, 4), np.float32), "b": np.zeros(0, np.int8), "c": np.array(3.0)}
    assert scanned(save(arrays, {"format": "np"}), "x.safetensors").findings == ()
    tensors = {"h": torch.ones(3, dtype=torch.bfloat16), "e": torch.ones(2).to(torch.float8_e4m3fn)}
    assert scanned(save_torch(tensors), "x.safetensors").findings == ()
    assert scanned(save({}), "x.safetensors").findings == ()


def test_a_keep_is_clean(tmp_path):
    with mk.open(tmp_path / "keep").run("a") as run:
        run.save({"model": {"w": np.ones((100, 3), np.float32)}}, step=1, epoch=1)
    assert scan(tmp_path / "keep").findings == ()


def test_a_name_that_lies_is_said(scanned):
    report = scanned(save({"a": np.ones(2)}), "x.npy")
    assert [(one.severity, one.what) for one in report.findings] == [
        ("suspicious", "named .npy, and it is a safetensors")
    ]
    assert scanned(pickle.dumps([1, 2, 3]), "notes.txt").verdict == "suspicious"
