import io
import pickle
import struct
import zipfile
import zlib

import pytest

from .hostile import MiB, check_outcome, run_cases
from .wrapping import torch_zip as archive

DAMAGED, LIMIT, UNSAFE, UNKNOWN = ("Damaged",), ("LimitExceeded",), ("Unsafe",), ("UnknownFormat",)
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class Call:
    """Pickled as a call of what is named: no test ever loads it with pickle."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def op(text):
    return text.encode() if isinstance(text, str) else text


def tensor(key="0", count=4, offset=0, shape=(4,), stride=(1,), storage="torch\nFloatStorage\n"):
    """The operations that put one tensor on the stack."""

    def number(value):
        return (
            b"J" + struct.pack("<i", value)
            if abs(value) < 1 << 31
            else b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
        )

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    text = lambda value: b"X" + struct.pack("<I", len(value)) + value.encode()  # noqa: E731
    saved = b"(" + text("storage") + b"c" + storage.encode() + text(key) + text("cpu") + number(count) + b"tQ"
    rest = number(offset) + numbers(shape) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + saved + rest + b"tR"


def state(*operations):
    """A pickle of one dict with "w" -> what the operations leave on the stack."""
    return b"\x80\x02}X\x01\0\0\0w" + b"".join(map(op, operations)) + b"s."


def edited(find, put, data=None):
    data = archive(state(tensor())) if data is None else data
    assert find in data
    return data.replace(find, put)


def renamed(mode):
    file = io.BytesIO(archive(state(tensor())))
    with zipfile.ZipFile(file, "a") as made:
        info = zipfile.ZipInfo("archive/data/1")
        info.external_attr = mode << 16
        made.writestr(info, "/etc/passwd")
    return file.getvalue()


def doubled(placeholder, name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("archive/data.pkl", state(tensor()))
        made.writestr("archive/data/0", bytes(16))
        made.writestr(placeholder, bytes(16))
    return file.getvalue().replace(placeholder.encode(), name)


def laughs(depth):
    """Tuples of the tuple before twice: small as a file, endless when walked."""
    return b"]" + b"".join(b"q%ch%ch%c\x86" % (0, 0, 0) for _ in range(depth))


def called(name, arguments):
    """A call with arguments of which one, ``h\\0``, is a tuple of tuples without end."""
    return archive(b"\x80\x02(" + laughs(60) + b"c" + name.encode() + b"(" + arguments + b"tRt.")


def encrypted(data):
    """The last member of an archive, said to be encrypted."""
    at = data.rfind(b"PK\1\2") + 8
    return data[:at] + b"\1" + data[at + 1 :]


def legacy(main, keys=("0",), tail=b"\4" + bytes(23), version=1001):
    parts = [version, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    return LEGACY + b"".join(pickle.dumps(part, 2) for part in parts) + main + pickle.dumps(list(keys), 2) + tail


SUBCLASS = b"ctorch._tensor\n_rebuild_from_type_v2\n"
SYSTEM = "cposix\nsystem\nX\x08\0\0\0touch xx\x85R"
CASES = {
    "os.system": (archive(state(SYSTEM)), UNSAFE),
    "os.system in the old form": (legacy(state(SYSTEM)), UNSAFE),
    "os.system as the first pickle of the old form": (LEGACY + b"\x80\x02" + SYSTEM.encode() + b".", UNSAFE),
    "a plain pickle": (pickle.dumps(Call(print, "run")), UNSAFE),
    "a plain pickle of protocol 4 by stack": (pickle.dumps(Call(exec, "import os"), 4), UNSAFE),
    "a plain pickle without globals": (pickle.dumps({"a": [1, 2]}), UNSAFE),
    "builtins.eval": (archive(state("c__builtin__\neval\nX\x01\0\0\x001\x85R")), UNSAFE),
    "builtins.getattr": (archive(state("cbuiltins\ngetattr\n)R")), UNSAFE),
    "a global with dots": (archive(state("ctorch\n_utils._rebuild_tensor_v2\n")), UNKNOWN),
    "torch.load as a gadget": (archive(state("ctorch.serialization\nload\nX\x01\0\0\0x\x85R")), UNSAFE),
    "numpy.fromfile": (archive(state("cnumpy\nfromfile\nX\x0b\0\0\0/etc/passwd\x85R")), UNSAFE),
    "numpy reconstruct": (archive(state("cnumpy.core.multiarray\n_reconstruct\n")), UNSAFE),
    "INST": (archive(state("(S'x'\niposix\nsystem\n")), UNSAFE),
    "OBJ": (archive(state("(ctorch\nSize\no")), UNSAFE),
    "EXT1": (archive(state(b"\x82\x01")), (*UNSAFE, *DAMAGED)),
    "PERSID": (archive(state("Pstorage\n")), UNSAFE),
    "NEXT_BUFFER": (archive(state(b"\x97")), UNSAFE),
    "BUILD on a tensor with a setter": (archive(state(tensor(), "}X\x0c\0\0\0__setstate__cposix\nsystem\nsb")), UNSAFE),
    "call of a dict": (archive(state("})R")), UNSAFE),
    "call without a tuple": (archive(state("ctorch\nSize\nNR")), UNSAFE),
    "200,000 marks": (archive(b"\x80\x02" + b"(" * 200_000 + b"."), (*DAMAGED, *LIMIT)),
    "2,000,000 lists": (archive(b"\x80\x02" + b"]" * 2_000_000 + b"."), LIMIT),
    "memo at 2^31": (archive(state(b"(Nr\xff\xff\xff\x7fj\xff\xff\xff\x7fcposix\nsystem\nt")), UNSAFE),
    "memo that is not there": (archive(state(b"j\xff\xff\xff\x7f")), DAMAGED),
    "string longer than the pickle": (archive(state(b"X\xff\xff\xff\x7fab")), DAMAGED),
    "string of 2^62 bytes": (archive(state(b"\x8d" + struct.pack("<Q", 1 << 62))), DAMAGED),
    "frame of 2^62 bytes": (archive(b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N."), (*DAMAGED, *UNKNOWN)),
    "number of a million bits": (archive(state(b"\x8b" + struct.pack("<i", 200_000) + b"\x7f" * 200_000)), LIMIT),
    "number of a million digits": (archive(state("I" + "9" * 1_000_000 + "\n")), DAMAGED),
    "tuples of tuples as a key": (archive(b"\x80\x02(" + laughs(60) + b"t}h\0Ns."), UNKNOWN),
    "tuples of tuples as a value": (archive(state("(", laughs(60), "t")), LIMIT),
    "tuples of tuples as a name": (archive(b"\x80\x02(" + laughs(60) + b"h\0h\0\x93t."), DAMAGED),
    "tuples of tuples as a device": (called("torch\ndevice\n", b"h\0"), DAMAGED),
    "tuples of tuples as a dtype": (called("torch._utils\n_rebuild_tensor_v3\n", b"NNNNNNh\0"), UNKNOWN),
    "tuples of tuples as a version": (LEGACY + (b"\x80\x02(" + laughs(60) + b"th\0.") * 4, UNKNOWN),
    "a subclass that is its own": (
        archive(b"\x80\x02]q\0(" + SUBCLASS + b"ctorch.nn.parameter\nParameter\nh\0e" + SUBCLASS
                + b"(" + SUBCLASS + b"ctorch.nn.parameter\nParameter\nh\0tR."),
        DAMAGED,
    ),
    "lists 500 deep": (archive(state("(" * 500 + "l" * 500)), LIMIT),
    "list that holds itself": (archive(state("]q\0h\0a")), LIMIT),
    "dict that holds itself": (archive(state("}q\0X\x01\0\0\0ah\0s")), LIMIT),
    "pickle that is cut off": (archive(state(tensor())[:-8]), DAMAGED),
    "stack that is empty": (archive(b"\x80\x02."), DAMAGED),
    "no tensor at all": (archive(state("K\1")), UNKNOWN),
    "tensor past its storage": (archive(state(tensor(offset=1))), DAMAGED),
    "strides past its storage": (archive(state(tensor(shape=(2, 2), stride=(1, 1 << 40)))), DAMAGED),
    "negative stride": (archive(state(tensor(stride=(-1,)))), DAMAGED),
    "negative shape": (archive(state(tensor(shape=(-4,)))), DAMAGED),
    "negative offset": (archive(state(tensor(offset=-1))), DAMAGED),
    "shape without strides": (archive(state(tensor(shape=(2, 2), stride=(1,)))), DAMAGED),
    "shape that overflows": (archive(state(tensor(shape=(1 << 61, 1 << 61), stride=(0, 0)))), DAMAGED),
    "a terabyte by stride 0": (archive(state(tensor(shape=(1 << 38,), stride=(0,)))), LIMIT),
    "1,000 axes": (archive(state(tensor(shape=(1,) * 1000, stride=(1,) * 1000))), UNKNOWN),
    "storage that is missing": (archive(state(tensor(key="7"))), DAMAGED),
    "storage of a terabyte": (archive(state(tensor(count=1 << 38))), DAMAGED),
    "storage named as a path": (archive(state(tensor(key="../../../../etc/passwd"))), DAMAGED),
    "storage that is shorter": (archive(state(tensor(count=5))), DAMAGED),
    "reference that is no storage": (archive(state("K\1Q")), DAMAGED),
    "members compressed": (archive(state(tensor()), method=zipfile.ZIP_DEFLATED), UNKNOWN),
    "pickle longer than the budget": (archive(state("X" + "\0\0\x50\0", b" " * 0x500000)), LIMIT),
    "TorchScript": (archive(state(tensor()), more={"archive/code/net.py": "x", "archive/constants.pkl": ""}), UNSAFE),
    "two data.pkl": (doubled("archive/data_pkl", b"archive/data.pkl"), DAMAGED),
    "two storages of one name": (doubled("archive/data/x", b"archive/data/0"), DAMAGED),
    "member named upwards": (archive(state(tensor()), more={"archive/../../x": "x"}), UNSAFE),
    "member with an absolute name": (archive(state(tensor()), more={"/etc/x": "x"}), UNSAFE),
    "member that is a link": (renamed(0o120777), UNSAFE),
    "member that is a device": (renamed(0o020666), UNSAFE),
    "script before the zip": (b"#!/bin/sh\nexit\n" + archive(state(tensor())), UNSAFE),
    "zip before the zip": (archive(state(tensor())) + archive(state(SYSTEM)), UNSAFE),
    "bytes behind the zip": (archive(state(tensor())) + b"x", DAMAGED),
    "zip that is cut off": (archive(state(tensor()))[:-30], DAMAGED),
    "local header with another name": (edited(b"data/0\0\0\0\0", b"data/9\0\0\0\0"), DAMAGED),
    "member marked as encrypted": (
        encrypted(archive(state(tensor()))),
        (*UNKNOWN, *DAMAGED),
    ),
    "checksum of the pickle": (
        edited(struct.pack("<L", zlib.crc32(state(tensor()))), b"\1\2\3\4"),
        DAMAGED,
    ),
    "checksum of a storage": (edited(struct.pack("<L", zlib.crc32(bytes(16))), b"\1\2\3\4"), DAMAGED),
    "directory with 65,000 entries": (edited(b"\2\0\2\0", b"\xe8\xfd\xe8\xfd"), LIMIT),
    "byte order of neither kind": (archive(state(tensor()), more={"archive/byteorder": "both"}), DAMAGED),
    "old form with a storage of a terabyte": (
        legacy(state(tensor(count=1 << 38)), tail=struct.pack("<q", 1 << 38)),
        DAMAGED,
    ),
    "old form with more keys": (legacy(state(tensor()), keys=("0", "1")), DAMAGED),
    "old form with a negative count": (legacy(state(tensor()), tail=struct.pack("<q", -1)), DAMAGED),
    "old form that goes on": (legacy(state(tensor())) + b"more", DAMAGED),
    "old form of another version": (legacy(state(tensor()), version=1000), UNKNOWN),
    "old form with a module": (legacy(state("(X\x06\0\0\0modulectorch\nSize\nNNtQ")), (*UNSAFE, *DAMAGED)),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    for number, (data, _) in enumerate(CASES.values()):
        (folder / f"{number}.pt").write_bytes(data)
    (folder / "warm.pt").write_bytes(archive(state(tensor())))
    budget = {"nbytes": MiB, "text": 4 * MiB, "entries": 20_000, "nodes": 20_000}
    return run_cases(folder, {name: (folder / f"{n}.pt", budget) for n, name in enumerate(CASES)}, folder / "warm.pt")


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_a_typed_error(outcomes, name):
    check_outcome(outcomes[name], CASES[name][1], 4 * MiB)
