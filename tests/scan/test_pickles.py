"""A pickle is told by what it would import and call, wherever it lies and however it hides it."""

import bz2
import collections
import gzip
import io
import lzma
import pickle
import struct
import subprocess
import sys
import zlib

import ml_dtypes
import numpy as np
import pytest
import torch

from modelkeep.scan import pickles


class Runs:
    """Unpickled, it makes the canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def code(canary):
    return text(f"open({str(canary)!r}, 'w').close()")


# Each is the beginning of a real pickle of protocol 0 to 4, made by hand: nothing after it is needed to run it.
HOSTILE = {
    "global and reduce": lambda canary: b"cbuiltins\nexec\n(" + code(canary) + b"tR.",
    "of Python 2's name": lambda canary: b"\x80\x02c__builtin__\neval\n(" + text("1") + b"tR.",
    "inst": lambda canary: b"(" + code(canary) + b"ibuiltins\nexec\n.",
    "obj": lambda canary: b"(cbuiltins\nexec\n" + code(canary) + b"o.",
    "newobj": lambda canary: b"\x80\x02csubprocess\nPopen\n(]" + text("true") + b"at\x81.",
    "names from the stack": lambda canary: (
        b"\x80\x04" + text("builtins") + text("exec") + b"\x93(" + code(canary) + b"tR."
    ),
    "names from a memo that is put by number and by counting": lambda canary: (
        b"\x80\x04" + text("builtins") + b"q\x00" + text("exec") + b"q\x01" + text("torch._utils") + b"\x94"
        + text("_rebuild_tensor_v2") + b"\x94h\x00h\x01\x93(" + code(canary) + b"tR."
    ),
    "names from a memo by numbers with zeros and spaces": lambda canary: (
        text("builtins") + b"p007\n" + text("exec") + b"p08\n0g007\ng08\n\x93(" + code(canary) + b"tR."
    ),
    "a number in hexadecimal before it": lambda canary: b"I0x1\n0cbuiltins\nexec\n(" + code(canary) + b"tR.",
    "it breaks off behind the call": lambda canary: b"\x80\x04cbuiltins\nexec\n(" + code(canary) + b"tR",
    "it breaks behind the call": lambda canary: b"\x80\x04cbuiltins\nexec\n(" + code(canary) + b"tR\xff\xff\xff.",
    "the second of two": lambda canary: pickle.dumps([1]) + b"cbuiltins\nexec\n(" + code(canary) + b"tR.",
    "nested": lambda canary: pickle.dumps(pickle.loads) + pickle.dumps(pickle.dumps(Runs(canary))),
    "made by Python": lambda canary: pickle.dumps(Runs(canary), 4),
    "a dotted name": lambda canary: b"\x80\x04" + text("collections") + text("OrderedDict.fromkeys") + b"\x93.",
    "a name that is computed": lambda canary: b"\x80\x04" + text("builtins") + b"cbuiltins\nstr\n)R\x93.",
    "reading a file through numpy": lambda canary: b"cnumpy\nfromfile\n(" + text("/etc/hostname") + b"tR.",
    "a module of its own": lambda canary: b"cmy_package\nMyModel\n)R.",
    "torch's loader of hubs": lambda canary: b"ctorch.hub\nload\n(" + text("x/y") + text("m") + b"tR.",
    "a module with letters beyond ASCII": lambda canary: "cmodül\nlade\n)R.".encode(),
    "an extension code": lambda canary: b"\x80\x02\x82\x01.",
    "changing a function": lambda canary: b"\x80\x02cnumpy\ndtype\n}" + text("a") + text("os") + b"sb.",
    "calling what was made": lambda canary: b"\x80\x02ccollections\nOrderedDict\n)R)R.",
}  # fmt: skip
RUNS = [
    "global and reduce", "inst", "obj", "names from the stack", "made by Python", "it breaks off behind the call",
    "names from a memo that is put by number and by counting", "names from a memo by numbers with zeros and spaces",
    "a number in hexadecimal before it", "it breaks behind the call",
]  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_pickle_that_would_do_more_than_rebuild_arrays_is_unsafe(case, canary, scanned):
    report = scanned(HOSTILE[case](canary))
    assert report.kind == "pickle"
    assert report.verdict == "unsafe"


@pytest.mark.parametrize("case", RUNS)
def test_these_pickles_do_run_when_they_are_loaded(case, tmp_path):
    (tmp_path / "it.pkl").write_bytes(HOSTILE[case](tmp_path / "ran"))
    program = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "it.pkl")], capture_output=True, check=False)
    assert (tmp_path / "ran").exists()


def test_what_is_imported_is_named_with_its_place(canary, scanned):
    (found,) = scanned(HOSTILE["global and reduce"](canary)).findings
    assert found.what == "imports builtins.exec and calls it"
    assert found.where == "model.pkl byte 15"
    assert "known to run code" in found.why
    assert "weights only" in found.way_out


def test_without_picklescan_the_verdicts_are_the_same(canary, scanned, monkeypatch):
    monkeypatch.setitem(sys.modules, "picklescan.scanner", None)
    assert scanned(HOSTILE["global and reduce"](canary)).verdict == "unsafe"


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


WRAPPED = {
    "in a zip": (lambda data, wrap: wrap["zip"]({"a/data.pkl": data}), "model.pt"),
    "in a zip, named text": (lambda data, wrap: wrap["zip"]({"readme.txt": data}), "model.zip"),
    "in a zip in a zip": (lambda data, wrap: wrap["zip"]({"a": wrap["zip"]({"b": data}, 8)}, 8), "model.bin"),
    "in a tar": (lambda data, wrap: wrap["tar"]({"pickle": data}), "model.tar"),
    "in a tar in gzip": (lambda data, wrap: gzip.compress(wrap["tar"]({"pickle": data})), "model.tgz"),
    "in gzip": (lambda data, wrap: gzip.compress(data), "model.pkl.gz"),
    "behind another stream of gzip": (lambda data, wrap: gzip.compress(b"") + gzip.compress(data), "model.pkl.gz"),
    "in bzip2": (lambda data, wrap: bz2.compress(data), "model.joblib"),
    "in xz": (lambda data, wrap: lzma.compress(data), "model.joblib"),
    "in zlib": (lambda data, wrap: zlib.compress(data), "model.joblib"),
    "named safetensors": (lambda data, wrap: data, "model.safetensors"),
    "without a name": (lambda data, wrap: data, "model"),
}


@pytest.mark.parametrize("way", WRAPPED)
@pytest.mark.parametrize("case", ["made by Python", "global and reduce"])
def test_a_pickle_is_found_wherever_it_lies(case, way, canary, scanned, zipped, tarred):
    wrap, name = WRAPPED[way]
    data = wrap(HOSTILE[case](canary), {"zip": zipped, "tar": tarred})
    report = scanned(data, name)
    assert report.verdict == "unsafe", report
    assert any("builtins.exec" in one.what for one in report.findings)


def test_the_objects_of_an_array_are_a_pickle(canary, scanned):
    objects = np.array([Runs(canary)], dtype=object)
    assert scanned(npy(objects), "x.npy").verdict == "unsafe"
    assert scanned(npz(a=np.ones(3), b=objects), "x.npz").verdict == "unsafe"
    records = np.zeros(1, dtype=[("a", "f4"), ("b", "O")])
    records["b"][0] = Runs(canary)
    assert scanned(npy(records), "x.npy").verdict == "unsafe"


def test_joblib_is_a_pickle(canary, scanned):
    import joblib

    buffer = io.BytesIO()
    joblib.dump({"a": np.ones(3), "b": Runs(canary)}, buffer)
    assert scanned(buffer.getvalue(), "x.joblib").verdict == "unsafe"


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_of_torch_is_found(zip_format, canary, scanned):
    data = saved({"w": torch.ones(3), "x": Runs(canary)}, _use_new_zipfile_serialization=zip_format)
    assert scanned(data, "model.pt").verdict == "unsafe"


def test_a_whole_module_of_torch_is_unsafe_by_the_classes_that_it_imports(scanned):
    report = scanned(saved(torch.nn.Linear(2, 2)), "model.pt")
    assert any("torch.nn.modules.linear.Linear" in one.what for one in report.findings)


def test_torchscript_is_a_program(scanned):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    report = scanned(buffer.getvalue(), "model.pt")
    assert any("TorchScript" in one.what for one in report.findings)


# Clean


def state_dict():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters())
    model[2](torch.ones(1, 4)).sum().backward()
    optimizer.step()
    extra = {
        "half": torch.ones(3, dtype=torch.bfloat16),
        "q": torch.zeros(2, dtype=torch.int8),
        "size": torch.Size([2]),
    }
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, **extra}


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_weights_of_torch_are_clean(zip_format, scanned):
    report = scanned(saved(state_dict(), _use_new_zipfile_serialization=zip_format), "model.pt")
    assert report.findings == ()
    assert report.verdict == "clean"


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantised_and_sparse_tensors_are_clean(scanned):
    quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    sparse = torch.eye(3).to_sparse()
    parameter = torch.nn.Parameter(torch.ones(2))
    assert scanned(saved([quantised, sparse, parameter]), "model.pt").findings == ()


VALUES = {
    "arrays": {"a": np.arange(6.0).reshape(2, 3), "b": np.float32(3), "c": np.arange(3).astype(ml_dtypes.bfloat16)},
    "texts": np.array(["a", "bc"]),
    "containers": [{"a": (1, 2.5, None, True, 10**30)}, {1, 2}, b"bytes", bytearray(b"x"), "long" * 5000, 1 + 2j],
    "named containers": [collections.OrderedDict(a=1), collections.Counter("abca"), frozenset({1})],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_pickles_of_arrays_and_containers_are_clean(name, protocol, scanned):
    assert scanned(pickle.dumps(VALUES[name], protocol)).findings == ()


def test_arrays_of_numpy_are_clean(scanned):
    records = np.zeros(3, dtype=[("x", "<f4", (2,)), ("y", "S3"), ("z", "U2")])
    for array in (np.arange(12.0).reshape(3, 4).T, np.float16(2), np.zeros((0, 3)), records, np.array("text")):
        assert scanned(npy(array), "x.npy").findings == ()
    assert scanned(npy(np.ones(3)) + npy(np.zeros(2)), "two.npy").findings == ()
    assert scanned(npz(a=np.ones(3), b=np.zeros((2, 2))), "x.npz").findings == ()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.random.default_rng(0).normal(size=1000))
    assert scanned(buffer.getvalue(), "x.npz").findings == ()


def test_random_bytes_within_an_archive_are_no_pickle(zipped, scanned):
    random = np.random.default_rng(0)
    members = {f"a/data/{index}": random.bytes(300) for index in range(3000)}
    members["a/data.pkl"] = pickle.dumps({})
    assert scanned(zipped(members), "model.pt").findings == ()


@pytest.mark.parametrize("name", ["x.npy", "x.pkl", "x.npz"])
def test_a_file_that_is_cut_short_is_damaged(name, scanned):
    whole = {"x.npy": npy(np.ones(100)), "x.pkl": pickle.dumps(VALUES["arrays"]), "x.npz": npz(a=np.ones(100))}[name]
    for size in (len(whole) - 1, len(whole) // 2, 11):
        assert scanned(whole[:size], name).verdict == "damaged", size


def test_an_array_of_terabytes_is_over_the_limit(scanned):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    report = scanned(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header, "x.npy")
    assert report.verdict == "limit"


def test_the_allowed_names_are_those_that_torch_allows_or_numpy_needs():
    """What torch's own loader of weights refuses is not let through here, but for arrays and plain containers."""
    from torch._weights_only_unpickler import _get_allowed_globals

    from modelkeep.scan.harmless import HARMLESS

    torch_allows = set(_get_allowed_globals())
    ours = {f"{module}.{name}" for module, name in HARMLESS if module.split(".")[0] == "torch"}
    known = {"torch.storage._LegacyStorage", "torch.nn.parameter.Buffer", "torch._tensor.Tensor"}
    assert ours - torch_allows - known - {name for name in ours if name.startswith("torch.cuda.")} == set()


def test_a_text_is_no_pickle():
    from modelkeep.scan.source import Source

    for line in (
        b"Notes on the model.\n",
        b"cats and dogs\nin a row\n",
        b"(see below)\n",
        b"N.",
        b"1\n2\n3\n",
        b"I am.\n",
    ):
        assert not pickles.looks_like(Source.of_bytes("notes.txt", line)), line


def test_lines_of_text_that_begin_like_a_pickle_are_text_until_they_call_something(scanned, zipped):
    def verdict(name, data):
        return scanned(zipped({name: data}), "all.zip").verdict

    assert verdict("labels.txt", b"cat\ndog\nfish\n") == "clean"
    assert verdict("labels.bin", b"cat\ndog\nfish\n") == "unsafe"
    assert verdict("labels.txt", b"cos\nsystem\n(S'id'\ntR") == "unsafe"
    assert verdict("labels.txt", b"cos\nsystem\n.") == "unsafe"
