"""Hostile files of the formats that are a header or a few messages and then bytes: numpy, ONNX, TensorFlow."""

import io
import os
import struct
import zipfile

import numpy as np
import onnx
import pytest

from modelkeep.importers import open_weights
from modelkeep.importers.crc32c import crc32c, masked

from .hostile import MiB, check_outcome, outside, run_cases
from .wrapping import table, varint

DAMAGED, LIMIT, UNSAFE, UNKNOWN = ("Damaged",), ("LimitExceeded",), ("Unsafe",), ("UnknownFormat",)
BUDGET = {"nbytes": MiB, "text": MiB, "entries": 2000, "nodes": 2000, "depth": 64}
DATA = "x.data-00000-of-00001"


# ---- numpy


def npy(shape="(4,)", kind="'<f4'", data=bytes(16), length=None, more="", version=b"\1\0"):
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}{more}, }}\n".encode()
    width = "<H" if version == b"\1\0" else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, len(text) if length is None else length) + text + data


def npz(members, method=zipfile.ZIP_STORED):
    room = io.BytesIO()
    with zipfile.ZipFile(room, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return room.getvalue()


NUMPY = {
    "an array of objects": (npy(kind="'|O'", data=b"cposix\nsystem\n(S'touch canary'\ntR."), UNSAFE),
    "a header that calls": (npy(kind="__import__('os').system('touch canary')"), UNKNOWN),
    "a header that calls in its shape": (npy(shape="(__import__('os'),)"), UNKNOWN),
    "a record with an object": (npy(kind="[('a', '|O')]"), (*UNSAFE, *UNKNOWN)),
    "a terabyte": (npy(shape="(274877906944,)"), (*LIMIT, *DAMAGED)),
    "a shape that overflows": (npy(shape="(4611686018427387904, 4611686018427387904)"), (*DAMAGED, *LIMIT)),
    "a shape without end": (npy(shape=f"(3, {'4' * 4000})"), UNKNOWN),
    "a negative shape": (npy(shape="(-4,)"), UNKNOWN),
    "1,000 axes": (npy(shape=f"({'1, ' * 1000})", data=bytes(4)), UNKNOWN),
    "texts of a gigabyte": (npy(kind="'<U268435456'", shape="(1,)"), (*LIMIT, *UNKNOWN)),
    "values that are missing": (npy(shape="(1000,)"), DAMAGED),
    "a header longer than the file": (npy(version=b"\2\0", length=0xFFFFFFFF), DAMAGED),
    "a version that is not known": (npy(version=b"\x09\0"), UNKNOWN),
    "a header of brackets": (npy(shape="(" * 20_000), UNKNOWN),
    "an archive with objects": (npz({"a.npy": npy(kind="'|O'")}), UNSAFE),
    "an archive with a pickle": (npz({"a.npy": npy(), "b.pkl": b"cos\nsystem\n."}), UNKNOWN),
    "a member upwards": (npz({"../../a.npy": npy()}), UNSAFE),
    "a member of 64 MiB in 64 KB": (
        npz({"a.npy": npy(shape="(16777216,)", data=bytes(64 * MiB))}, zipfile.ZIP_DEFLATED), LIMIT,
    ),
    "a member that declares less than it has": (npz({"a.npy": npy(shape="(1,)")}), DAMAGED),
    "members that are more than the budget together": (
        npz({f"{number}.npy": npy(shape="(100000,)", data=bytes(400_000)) for number in range(4)}), LIMIT,
    ),
    "more members than the budget": (npz({f"{number}.npy": npy() for number in range(2500)}), LIMIT),
}  # fmt: skip


# ---- ONNX


def tensor(dims=(4,), raw=bytes(16), kind=1, **external):
    made = onnx.TensorProto(name="w", data_type=kind, dims=dims)
    if external:
        made.data_location = onnx.TensorProto.EXTERNAL
        for key, value in external.items():
            made.external_data.add(key=key, value=str(value))
    elif raw is not None:
        made.raw_data = raw
    return made


def model(*tensors):
    return onnx.ModelProto(ir_version=9, graph=onnx.GraphProto(initializer=tensors)).SerializeToString()


def message(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def nested(levels):
    data = b""
    for _ in range(levels):  # a node with an attribute with a graph
        data = message(1, message(5, message(6, data)))
    return varint(8) + varint(9) + message(7, data)


ONNX = {
    "values upwards": (lambda out: model(tensor(location=f"../{out.name}/canary")), UNSAFE),
    "values of the root": (lambda out: model(tensor(location=out / "canary")), UNSAFE),
    "values in a folder": (lambda _: model(tensor(location="folder/values")), UNSAFE),
    "values at an address": (lambda _: model(tensor(location="http://127.0.0.1/values")), UNSAFE),
    "values with a zero in their name": (lambda _: model(tensor(location="values\0.bin")), UNSAFE),
    "values by a link that leads out": (lambda _: model(tensor(location="link")), UNSAFE),
    "values in a pipe": (lambda _: model(tensor(location="pipe")), UNSAFE),
    "values that are missing": (lambda _: model(tensor(location="nowhere")), ("NotFound",)),
    "values past the end": (lambda _: model(tensor(location="values", offset=1 << 40)), DAMAGED),
    "values before the start": (lambda _: model(tensor(location="values", offset=-8)), DAMAGED),
    "an offset that is no number": (lambda _: model(tensor(location="values", offset="9" * 5000)), DAMAGED),
    "fewer values than the shape": (lambda _: model(tensor(dims=(1 << 12,), location="values", length=16)), DAMAGED),
    "a terabyte elsewhere": (lambda _: model(tensor(dims=(1 << 38,), location="values")), (*LIMIT, *DAMAGED)),
    "a terabyte": (lambda _: model(tensor(dims=(1 << 38,), raw=None)), (*LIMIT, *DAMAGED)),
    "a shape that overflows": (lambda _: model(tensor(dims=(1 << 61, 1 << 61))), DAMAGED),
    "a negative shape": (lambda _: model(tensor(dims=(-4,))), DAMAGED),
    "no axes of a huge shape": (lambda _: model(tensor(dims=(0, 1 << 62), raw=b"")), DAMAGED),
    "2,000 axes": (lambda _: model(tensor(dims=(1,) * 2000)), (*UNKNOWN, *LIMIT, *DAMAGED)),
    "fewer bytes than the shape": (lambda _: model(tensor(dims=(5,))), DAMAGED),
    "a dtype that is not known": (lambda _: model(tensor(kind=99)), UNKNOWN),
    "texts": (lambda _: model(tensor(kind=8, raw=None)), UNKNOWN),
    "the same name twice": (lambda _: model(tensor(), tensor()), DAMAGED),
    "5,000 tensors": (lambda _: model(*[tensor()] * 5000), (*LIMIT, *DAMAGED)),
    "no weights": (lambda _: model(), UNKNOWN),
    "graphs in graphs": (lambda _: nested(2000), UNKNOWN),
    "a number without end": (lambda _: model(tensor())[:-4] + b"\xff" * 64, (*DAMAGED, *UNKNOWN)),
    "a message longer than the file": (lambda _: varint(8) + varint(9) + varint(58) + varint(1 << 40), UNKNOWN),
    "cut off": (lambda _: model(tensor())[:-6], (*DAMAGED, *UNKNOWN)),
}  # fmt: skip


# ---- TensorFlow


def number(field, value):
    return varint(field << 3) + varint(value)


def entry(key, shape=(4,), kind=1, offset=0, size=16, shard=0):
    dims = b"".join(message(2, number(1, axis)) for axis in shape)
    fields = [number(1, kind), message(2, dims), number(3, shard), number(4, offset), number(5, size)]
    return item(key, b"".join(fields) + varint(6 << 3 | 5) + masked(crc32c(bytes(16))).to_bytes(4, "little"))


def item(key, value):
    return varint(0) + varint(len(key)) + varint(len(value)) + key + value


def index(*items, shards=1):
    return table(item(b"", number(1, shards)) + b"".join(items), lambda data: masked(crc32c(data)))


TENSORFLOW = {
    "a terabyte": (index(entry(b"w", (1 << 38,))), (*LIMIT, *DAMAGED)),
    "a shape that overflows": (index(entry(b"w", (1 << 61, 1 << 61))), DAMAGED),
    "a negative shape": (index(entry(b"w", ((1 << 64) - 4,))), DAMAGED),
    "values past the end": (index(entry(b"w", offset=1 << 40)), DAMAGED),
    "more bytes than the shape": (index(entry(b"w", (2,))), DAMAGED),
    "a part that is not there": (index(entry(b"w", shard=7)), DAMAGED),
    "a million parts": (index(entry(b"w"), shards=1_000_000), LIMIT),
    "1,000 parts that are missing": (index(entry(b"w"), shards=1000), ("NotFound",)),
    "a dtype that is not known": (index(entry(b"w", kind=99)), UNKNOWN),
    "keys out of order": (index(entry(b"w"), entry(b"a")), DAMAGED),
    "the same key twice": (index(entry(b"w"), entry(b"w")), DAMAGED),
    "5,000 variables": (index(*(entry(b"w%06d" % count) for count in range(5000))), LIMIT),
    "a flipped bit": (index(entry(b"w"))[:20] + b"\xff" + index(entry(b"w"))[21:], DAMAGED),
    "a checksum of other values": (index(entry(b"w", offset=16)), DAMAGED),
    "no parts": (index(entry(b"w"), shards=0), DAMAGED),
    "cut off": (index(entry(b"w"))[20:], DAMAGED),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    out, cases = outside(folder), {}
    (folder / "values").write_bytes(bytes(64))
    (folder / "link").symlink_to(out / "canary")
    os.mkfifo(folder / "pipe")
    for number, (name, (data, _)) in enumerate(NUMPY.items()):
        cases["numpy", name] = folder / f"{number}.npy", data
    for number, (name, (make, _)) in enumerate(ONNX.items()):
        cases["onnx", name] = folder / f"{number}.onnx", make(out)
    for number, (name, (data, _)) in enumerate(TENSORFLOW.items()):
        place = folder / f"tf{number}"
        place.mkdir()
        (place / DATA).write_bytes(bytes(16) + bytes(range(16)))
        cases["tensorflow", name] = place / "x.index", data
    place = folder / "elsewhere"
    place.mkdir()
    (place / DATA).symlink_to(out / "canary")
    cases["tensorflow", "values by a link that leads out"] = place / "x.index", index(entry(b"w"))
    for path, data in cases.values():
        path.write_bytes(data)
    (folder / "warm.npy").write_bytes(npy())
    found = {": ".join(name): (path, BUDGET) for name, (path, _) in cases.items()}
    return run_cases(folder, found, folder / "warm.npy")


CASES = {
    **{f"numpy: {name}": errors for name, (_, errors) in NUMPY.items()},
    **{f"onnx: {name}": errors for name, (_, errors) in ONNX.items()},
    **{f"tensorflow: {name}": errors for name, (_, errors) in TENSORFLOW.items()},
    "tensorflow: values by a link that leads out": UNSAFE,
}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_a_typed_error(outcomes, name):
    check_outcome(outcomes[name], CASES[name], MiB)


def test_what_is_not_hostile_is_read(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy())
    (tmp_path / "b.onnx").write_bytes(model(tensor(location="values", offset=16)))
    (tmp_path / "values").write_bytes(bytes(16) + np.arange(4, dtype="<f4").tobytes())
    (tmp_path / "x.index").write_bytes(index(entry(b"w")))
    (tmp_path / DATA).write_bytes(bytes(16))
    assert open_weights(tmp_path / "a.npy").tensors["array"].read().tolist() == [0, 0, 0, 0]
    assert open_weights(tmp_path / "b.onnx").tensors["w"].read().tolist() == [0, 1, 2, 3]
    assert open_weights(tmp_path / "x.index").tensors["w"].read().tolist() == [0, 0, 0, 0]
