"""Hostile ``.keras`` files: what a zip can say of itself, of its members, and of what is in them."""

import io
import stat
import struct
import zipfile
import zlib

import h5py
import numpy as np
import pytest

from .hostile import MiB, check_outcome, outside, run_cases

DAMAGED, LIMIT, UNSAFE, UNKNOWN = ("Damaged",), ("LimitExceeded",), ("Unsafe",), ("UnknownFormat",)
BUDGET = {"nbytes": MiB, "text": MiB, "entries": 1000}
CONFIG = b'{"class_name": "Sequential", "config": {"layers": []}}'
WEIGHTS, LARGE = "model.weights.h5", 64 * MiB


def weights(count=8):
    room = io.BytesIO()
    with h5py.File(room, "w") as file:
        file["layers/dense/vars/0"] = np.ones(count, "f4")
    return room.getvalue()


def members(**others):
    return {"metadata.json": b'{"keras_version": "3.15.0"}', "config.json": CONFIG, WEIGHTS: weights(), **others}


def packed(found, method=zipfile.ZIP_STORED, change=None):
    """A zip of these members; ``change`` edits what the directory will say of each."""
    room = io.BytesIO()
    with zipfile.ZipFile(room, "w", method) as file:
        for name, data in found.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if change:
                change(info)
            file.writestr(info, data)
    return bytearray(room.getvalue())


def named(name, data=b"x"):
    return lambda _: packed({**members(), name: data})


def raw_name(raw):
    """Names that Python's own zipfile would not write."""

    def make(_):
        data = packed({**members(), "N" * len(raw): b"x"})
        return data.replace(b"N" * len(raw), raw)

    return make


def mode(bits):
    def change(info):
        if info.filename.startswith("assets"):
            info.create_system, info.external_attr = 3, bits << 16

    return lambda out: packed({**members(), "assets/link": f"{out}/canary".encode()}, change=change)


def bomb(name, method=zipfile.ZIP_DEFLATED):
    return lambda _: packed({**members(), name: bytes(LARGE)}, method)


def entry(field, value, which=WEIGHTS, *, local=False):
    """A field of the entry of one member in the directory, and perhaps of its local header, says something else."""

    def make(_):
        data = packed(members())
        places = [(data.rindex(which.encode()) - 46, field)]
        if local:
            places.append((data.index(which.encode()) - 30, {16: 14, 20: 18, 24: 22, 8: 6, 10: 8}[field]))
        for start, offset in places:
            size = 2 if field < 16 else 4
            data[start + offset : start + offset + size] = value.to_bytes(size, "little")
        return data

    return make


def end(field, value, size=2):
    def make(_):
        data = packed(members())
        at = len(data) - 22 + field
        data[at : at + size] = value.to_bytes(size, "little")
        return data

    return make


def twice(_):
    with pytest.warns(UserWarning, match="Duplicate name"):
        room = io.BytesIO()
        with zipfile.ZipFile(room, "w") as file:
            for name, data in [*members().items(), ("config.json", b"{}")]:
                file.writestr(name, data)
    return room.getvalue()


def overlapping(_):
    """Two entries of the directory share the bytes of one member."""
    data = packed({**members(), "assets/a": b"same", "assets/b": b"same"})
    first, second = data.index(b"PK\x03\x04", data.index(b"assets/a") - 31), data.rindex(b"assets/b") - 46
    data[second + 42 : second + 46] = first.to_bytes(4, "little")
    return data


def local_name(_):
    data = packed(members())
    at = data.index(b"config.json")
    data[at : at + 11] = b"other!.json"
    return data


def flipped(_):
    data = packed(members())
    data[data.index(b"Sequential")] ^= 1
    return data


def unpacks_to_more(_):
    """A member that declares 100 bytes and unpacks to 64 MiB."""
    data = packed({**members(), WEIGHTS: bytes(LARGE)}, zipfile.ZIP_DEFLATED)
    for magic, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = data.index(WEIGHTS.encode(), 0 if magic[2] == 3 else data.index(b"PK\x01\x02"))
        at -= 46 if magic[2] == 1 else 30
        data[at + offset : at + offset + 4] = (100).to_bytes(4, "little")
    return data


def trailing_stream(_):
    """Behind the end of a member's stream another one begins, which one reader sees and the next does not."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    one = stream.compress(CONFIG) + stream.flush()
    data = packed({**members(), "config.json": one + one})
    header, directory = data.index(b"config.json") - 30, data.rindex(b"config.json") - 46
    for start, method, crc, size in ((header, 8, 14, 22), (directory, 10, 16, 24)):
        data[start + method : start + method + 2] = (8).to_bytes(2, "little")
        data[start + crc : start + crc + 4] = zlib.crc32(CONFIG).to_bytes(4, "little")
        data[start + size : start + size + 4] = len(CONFIG).to_bytes(4, "little")
    return data


def zip64_lies(_):
    data = packed(members())
    at = len(data) - 22
    data[at + 8 : at + 12] = b"\xff\xff\xff\xff"
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1 << 40, 1 << 40, 1 << 40, 1 << 40)
    return data[:at] + record + struct.pack("<4sQL", b"PK\x06\x07", at, 1).replace(b"", b"", 1) + data[at:]


def script_in_front(_):
    return b"#!/bin/sh\ntouch canary\nexit\n" + packed(members())


def script_between(_):
    data = packed(members())
    at = data.index(b"PK\x01\x02")
    start = int.from_bytes(data[-6:-2], "little")
    data[-6:-2] = (start + 100).to_bytes(4, "little")
    return data[:at] + b"#!/bin/sh\n".ljust(100) + data[at:]


def another_zip_behind(_):
    return packed(members()) + packed({"config.json": b"{}"})


def many(count):
    return lambda _: packed({**members(), **{f"assets/{number}": b"" for number in range(count)}})


def config(text):
    return lambda _: packed({**members(), "config.json": text})


def without(*names):
    return lambda _: packed({name: data for name, data in members().items() if name not in names})


def h5(data):
    return lambda _: packed({**members(), WEIGHTS: data})


def link_within(out):
    room = io.BytesIO()
    with h5py.File(room, "w") as file:
        file["layers/dense/vars/0"] = h5py.ExternalLink(f"{out}/canary.h5", "/w")
    return packed({**members(), WEIGHTS: room.getvalue()})


# name -> how its bytes are made of the folder outside, and the errors that are due
CASES = {
    "a member upwards": (named("../../evil"), UNSAFE),
    "a member upwards from assets": (named("assets/../../evil"), UNSAFE),
    "a member of the root": (named("/etc/evil"), UNSAFE),
    "a member with backslashes": (raw_name(b"assets\\..\\..\\evil"), UNSAFE),
    "a member of a drive": (named("C:/evil"), UNSAFE),
    "a member named by a dot": (named("assets/./evil"), UNSAFE),
    "a member with an empty step": (named("assets//evil"), UNSAFE),
    "a member with a zero in its name": (raw_name(b"assets/a\0.sh"), UNSAFE),
    "a member with an escape in its name": (named("assets/\x1b[2Jx"), UNSAFE),
    "a member whose name turns around": (named("assets/\u202etxt.sh"), UNSAFE),
    "a member whose name is not UTF-8": (raw_name(b"assets/\xff\xfe\xfd"), DAMAGED),
    "a member without a name": (raw_name(b""), (*UNSAFE, *DAMAGED)),
    "a member that no such file has": (named("run.sh"), UNKNOWN),
    "a pickle beside it": (named("model.pkl", b"cos\nsystem\n(S'touch canary'\ntR."), UNKNOWN),
    "a symbolic link": (mode(stat.S_IFLNK | 0o777), UNSAFE),
    "a device": (mode(stat.S_IFCHR | 0o777), UNSAFE),
    "a pipe": (mode(stat.S_IFIFO | 0o777), UNSAFE),
    "a socket": (mode(stat.S_IFSOCK | 0o777), UNSAFE),
    "weights of 64 MiB in 64 KB": (bomb(WEIGHTS), LIMIT),
    "a configuration of 64 MiB in 64 KB": (bomb("config.json"), LIMIT),
    "metadata of 64 MiB in 64 KB": (bomb("metadata.json"), LIMIT),
    "weights that unpack to more than they declare": (unpacks_to_more, DAMAGED),
    "a stream behind the stream": (trailing_stream, DAMAGED),
    "the same member twice": (twice, DAMAGED),
    "members that share their bytes": (overlapping, DAMAGED),
    "a local header with another name": (local_name, DAMAGED),
    "a flipped bit": (flipped, DAMAGED),
    "a checksum that is another": (entry(16, 1, local=True), DAMAGED),
    "a checksum only the directory has": (entry(16, 1), DAMAGED),
    "a size that is smaller": (entry(24, 10, local=True), DAMAGED),
    "a size of 4 GB": (entry(24, 0xFFFFFFFE, local=True), DAMAGED),
    "a packed size past the end": (entry(20, 0x7FFFFFFF, local=True), DAMAGED),
    "an encrypted member": (entry(8, 1, local=True), UNKNOWN),
    "a member packed by bzip2": (entry(10, 12, local=True), UNKNOWN),
    "a member packed by an unknown method": (entry(10, 99, local=True), UNKNOWN),
    "a member at another place": (entry(42, 5), DAMAGED),
    "a member past the end": (entry(42, 0x7FFFFFFF), DAMAGED),
    "a member on another disk": (entry(34, 3), DAMAGED),
    "more entries than there are": (end(10, 9), (*DAMAGED, *UNKNOWN)),
    "an archive on several disks": (end(4, 1), UNKNOWN),
    "a directory somewhere else": (end(16, 0x7FFFFFF0, 4), (*UNSAFE, *DAMAGED)),
    "a directory that is shorter": (end(12, 50, 4), (*UNSAFE, *DAMAGED)),
    "zip64 records that lie": (zip64_lies, (*DAMAGED, *UNKNOWN, *UNSAFE)),
    "a remark at the end": (lambda _: packed(members()) + b"remark", (*DAMAGED, *UNKNOWN)),
    "a script in front": (script_in_front, (*UNSAFE, *UNKNOWN)),
    "a script before the directory": (script_between, UNSAFE),
    "another zip behind": (another_zip_behind, UNSAFE),
    "more members than the budget": (many(1200), LIMIT),
    "cut off": (lambda _: packed(members())[:-30], DAMAGED),
    "no weights": (without(WEIGHTS), UNKNOWN),
    "nothing": (lambda _: packed({}), (*UNKNOWN, *UNSAFE)),
    "a configuration that is not UTF-8": (config(b"\xff\xfe{}"), DAMAGED),
    "weights that are no HDF5": (h5(b"GARBAGE" * 100), DAMAGED),
    "weights that are nothing": (h5(b""), DAMAGED),
    "weights that are a pickle": (h5(b"\x80\x04cos\nsystem\n."), DAMAGED),
    "weights that are larger than the budget": (h5(weights(MiB)), LIMIT),
    "weights that lead outside": (link_within, UNSAFE),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    out, cases = outside(folder), {}
    for number, (name, (make, _)) in enumerate(CASES.items()):
        path = folder / f"{number}.keras"
        path.write_bytes(make(out))
        cases[name] = (path, BUDGET)
    (folder / "warm.keras").write_bytes(packed(members()))
    return run_cases(folder, cases, folder / "warm.keras")


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_a_typed_error(outcomes, name):
    check_outcome(outcomes[name], CASES[name][1], MiB)
