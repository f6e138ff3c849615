import json

import pytest

from .hostile import MiB, check_outcome, run_cases


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def node(dtype="U8", shape=(1,), offsets=(0, 1)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def many(count):
    return b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(count)) + b"}"


def index(**files):
    return json.dumps({"metadata": {}, "weight_map": files}).encode()


DAMAGED, LIMIT, UNSAFE, UNKNOWN = ("Damaged",), ("LimitExceeded",), ("Unsafe",), ("UnknownFormat",)

# name -> the bytes, the errors that are due
CASES = {
    "header longer than the file": (file_of({}, length=1 << 47), DAMAGED),
    "header of 2^63 bytes": (file_of({}, length=1 << 63), UNKNOWN),
    "header of more spaces than the budget has text": (file_of(b"{}" + b" " * 3 * MiB), LIMIT),
    "a terabyte without data": (file_of({"a": node("F32", (1 << 38,), (0, 1 << 40))}), DAMAGED),
    "a shape whose product overflows": (file_of({"a": node("F32", (1 << 32, 1 << 32, 4), (0, 0))}), DAMAGED),
    "overlap": (file_of({"a": node(), "b": node()}, b"x"), DAMAGED),
    "hole": (file_of({"a": node(offsets=(1, 2))}, b"xy"), DAMAGED),
    "bytes behind the data": (file_of({"a": node()}, b"xPK\5\6" + bytes(18)), (*DAMAGED, *UNSAFE)),
    "duplicate key": (file_of(b'{"a":%b,"a":%b}' % ((json.dumps(node()).encode(),) * 2), b"x"), DAMAGED),
    "deep JSON": (file_of(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), LIMIT),
    "NaN in a shape": (file_of(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', b"x"), DAMAGED),
    "30,000 empty tensors": (file_of(many(30_000)), LIMIT),
    "metadata that is no text": (file_of({"__metadata__": {"a": 1}}), DAMAGED),
    "unknown dtype": (file_of({"a": node("Q7")}, b"x"), UNKNOWN),
    "dtype of half a byte": (file_of({"a": node("F4", (3,), (0, 1))}, b"x"), UNKNOWN),
    "offsets reversed": (file_of({"a": node(offsets=(1, 0))}, b"x"), DAMAGED),
    "offsets negative": (file_of({"a": node(offsets=(-1, 0))}, b"x"), DAMAGED),
    "integer of a million digits": (file_of(b'{"a":' + b"9" * 1_000_000 + b"}"), DAMAGED),
    "index to a folder above": (index(a="../warm.safetensors"), UNSAFE),
    "index to an absolute path": (index(a="/etc/passwd"), UNSAFE),
    "index to itself": (index(a="index to itself"), (*DAMAGED, *UNKNOWN)),
    "index to a pipe": (index(a="pipe"), UNSAFE),
    "index to a link that leads out": (index(a="link"), UNSAFE),
    "index of lists": (b'{"weight_map": []}', DAMAGED),
    "index that is cut off": (index(a="x")[:-5], DAMAGED),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    import os

    folder = tmp_path_factory.mktemp("hostile")
    for name, (data, _) in CASES.items():
        (folder / name).write_bytes(data)
    (folder / "warm.safetensors").write_bytes(file_of({"a": node()}, b"x"))
    (folder / "link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe")
    budget = {"nbytes": MiB, "text": 2 * MiB, "entries": 20_000}
    return run_cases(folder, {name: (folder / name, budget) for name in CASES}, folder / "warm.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_a_typed_error(outcomes, name):
    check_outcome(outcomes[name], CASES[name][1], MiB)
