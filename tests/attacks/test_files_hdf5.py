import contextlib
import os

import h5py
import numpy as np
import pytest

from modelkeep.budget import Budget
from modelkeep.errors import UnknownFormat
from modelkeep.scan import scan

from . import hostile
from .hostile import MiB, check_outcome, outside, run_cases

DAMAGED, LIMIT, UNSAFE, UNKNOWN = ("Damaged",), ("LimitExceeded",), ("Unsafe",), ("UnknownFormat",)
BUDGET = {"nbytes": MiB, "text": MiB, "entries": 2000, "nodes": 2000, "depth": 64}
ROOMY = {**BUDGET, "nbytes": 1 << 50}
"""A budget that allows the bytes: then it is the file that must hold them."""


def attribute(place, name, kind, shape=None, data=None):
    """An attribute by the low-level calls, of a type and shape that h5py itself would not write."""
    space = h5py.h5s.create(h5py.h5s.SCALAR) if shape is None else h5py.h5s.create_simple(shape)
    made = h5py.h5a.create(place.id, name.encode(), kind, space)
    if data is not None:
        made.write(data)


def dataset(file, name, kind, shape, plan=None, *, null=False):
    """A dataset by the low-level calls; nothing is written into it."""
    space = h5py.h5s.create(h5py.h5s.NULL) if null else h5py.h5s.create_simple(shape)
    return h5py.h5d.create(file.id, name if isinstance(name, bytes) else name.encode(), kind, space, plan)


def plan(chunks=None, deflate=0, filters=()):
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunks:
        made.set_chunk(chunks)
    for _ in range(deflate):
        made.set_deflate(9)
    for code in filters:
        made.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (1,))
    return made


F4 = h5py.h5t.IEEE_F32LE


# ---- links: each is a function of the open file and of the folder outside


def soft(*pairs):
    def make(file, _):
        file["w"] = np.ones(3, "f4")
        for name, target in pairs:
            file[name] = h5py.SoftLink(target)

    return make


def external(name, path, target="/"):
    def make(file, out):
        file["w"] = np.ones(3, "f4")
        file[name] = h5py.ExternalLink(path.format(out=out), target)

    return make


def loop_to_the_root(file, _):
    file["a/b/c"] = np.ones(3, "f4")
    file["a/b/root"] = file["/"]


def group_in_itself(file, _):
    group = file.create_group("a")
    group["a"] = group


def group_in_two_places(file, _):
    file["a/w"] = np.ones(3, "f4")
    file["b"] = file["a"]


def groups_of_groups_twice(file, _):
    """Each holds the next one twice: 2^60 paths in 60 groups."""
    group = file.create_group("g")
    for _ in range(60):
        inner = group.create_group("a")
        group["b"] = inner
        group = inner


def dataset_with_a_hundred_names(file, _):
    file["w"] = np.ones(MiB // 64, "f4")
    for number in range(100):
        file[f"again{number}"] = file["w"]


def layer_that_is_a_link(file, out):
    file.attrs["layer_names"] = [b"dense"]
    file["dense"] = h5py.ExternalLink(f"{out}/canary.h5", "/")


def root_that_is_a_link(file, out):
    file["model_weights"] = h5py.ExternalLink(f"{out}/canary.h5", "/")


def layers(*names, weights=(b"w:0",)):
    """A legacy file with one good layer ``dense``, and these as the names of its layers."""

    def make(file, _):
        file["dense/w:0"] = np.ones(3, "f4")
        file["dense"].attrs["weight_names"] = list(weights)
        file.attrs["layer_names"] = np.array(names) if isinstance(names[0], np.bytes_) else list(names)

    return make


# ---- values that lie elsewhere


def outer(path, nbytes=64):
    def make(file, out):
        file.create_dataset("w", (nbytes // 4,), "f4", external=[(path.format(out=out), 0, nbytes)])

    return make


def virtual_by_pattern(file, out):
    """``%b`` stands for a number: HDF5 looks for files until one is missing."""
    source, made = h5py.h5s.create_simple((4,)), plan()
    endless = h5py.h5s.create_simple((4,), (h5py.h5s.UNLIMITED,))
    endless.select_hyperslab((0,), (h5py.h5s.UNLIMITED,), (4,), (4,))
    made.set_virtual(endless, f"{out}/canary%b.h5".encode(), b"/w", source)
    h5py.h5d.create(file.id, b"w", F4, h5py.h5s.create_simple((4,), (h5py.h5s.UNLIMITED,)), made)


def virtual(path, source="/w"):
    def make(file, out):
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(path.format(out=out), source, (4,), "f4")
        file["v"] = np.ones(4, "f4")
        file.create_virtual_dataset("w", layout, fillvalue=1)

    return make


# ---- shapes, chunks and filters


def declared(shape, kind=F4, **options):
    return lambda file, _: dataset(file, "w", kind, shape, plan(**options) if options else None)


def one_chunk_of(shape, chunks, **options):
    def make(file, _):
        made = dataset(file, "w", F4, shape, plan(chunks, **options))
        made.write_direct_chunk((0,) * len(shape), b"\0" * 64)

    return make


def zeros(count, **options):
    return lambda file, _: file.create_dataset("w", data=np.zeros(count, "f4"), **options)


def packed_twice(file, _):
    made = dataset(file, "w", F4, (4 * MiB,), plan((MiB,), deflate=2))
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(4 * MiB, "f4"))


def chunk_that_unpacks_to_more(file, _):
    """A chunk of 1 KiB whose deflate stream is one of 64 MiB."""
    import zlib

    made = dataset(file, "w", F4, (256,), plan((256,), deflate=1))
    made.write_direct_chunk((0,), zlib.compress(bytes(64 * MiB), 9))


def chunk_that_unpacks_to_less(file, _):
    import zlib

    made = dataset(file, "w", F4, (256,), plan((256,), deflate=1))
    made.write_direct_chunk((0,), zlib.compress(bytes(8), 9))


def chunk_that_is_no_stream(file, _):
    dataset(file, "w", F4, (256,), plan((256,), deflate=1)).write_direct_chunk((0,), b"no stream of deflate")


def chunk_with_filters_skipped(file, _):
    """Its mask says that no filter was applied, and it is shorter than a chunk."""
    made = dataset(file, "w", F4, (256,), plan((256,), deflate=1))
    made.write_direct_chunk((0,), bytes(8), 0xFFFFFFFF)


# ---- groups and names


def deep(levels):
    def make(file, _):
        group = file.id
        for _ in range(levels):
            group = h5py.h5g.create(group, b"g")

    return make


def many(count):
    def make(file, _):
        for number in range(count):
            dataset(file, str(number), F4, (0,))

    return make


def named(raw):
    return lambda file, _: dataset(file, raw, F4, (0,))


def committed_type(file, _):
    file["w"] = np.ones(3, "f4")
    F4.copy().commit(file.id, b"kind")


# ---- kinds of values


def kind(made, shape=(4,)):
    return lambda file, _: dataset(file, "w", made(), shape)


def compound():
    return h5py.h5t.py_create(np.dtype([("a", "f4"), ("b", "i4")]))


def wide_float():
    return h5py.h5t.NATIVE_LDOUBLE


def odd_integer():
    made = h5py.h5t.STD_I32LE.copy()
    made.set_precision(17)
    return made


def three_names():
    made = h5py.h5t.enum_create(h5py.h5t.STD_I8LE)
    for number, name in enumerate([b"a", b"b", b"c"]):
        made.enum_insert(name, number)
    return made


def opaque():
    made = h5py.h5t.create(h5py.h5t.OPAQUE, 2)
    made.set_tag(b"bfloat16")
    return made


def text(length):
    made = h5py.h5t.C_S1.copy()
    made.set_size(length)
    return made


# ---- attributes


def described(name, value):
    def make(file, _):
        file["w"] = np.ones(3, "f4")
        file.attrs[name] = value

    return make


def long_text(nbytes):
    """More than fits in an object header: it lies in a heap of its own."""

    def make(file, _):
        file["w"] = np.ones(3, "f4")
        attribute(file, "model_config", text(nbytes), None, np.full((), b"x" * nbytes, f"S{nbytes}"))

    return make


def texts_declared(count, nbytes):
    def make(file, _):
        file["w"] = np.ones(3, "f4")
        attribute(file, "layer_names", text(nbytes), (count,))

    return make


def dtype_of(kind_, shape=None):
    def make(file, _):
        file["w"] = np.ones(4, "u2")
        attribute(file["w"], "dtype", kind_(), shape)

    return make


def same_text_again(place, name, count=2000):
    """An attribute of so many texts without a fixed length, each the same megabyte: 2 GB out of 1 MB.

    They are written as different ones, and the file is edited until all refer to the first.
    """

    def make(path):
        with h5py.File(path, "w") as file:
            file["w"] = np.ones(4, "u2")
            texts = np.array(["x" * MiB, *("short" for _ in range(count - 1))], object)
            file[place].attrs.create(name, texts, dtype=h5py.string_dtype())
        data = bytearray(path.read_bytes())
        first = data.index((MiB).to_bytes(4, "little") + data_of(data))
        for number in range(count):
            data[first + 16 * number : first + 16 * number + 16] = data[first : first + 16]
        path.write_bytes(data)

    return make


def data_of(data):
    """Where the heap of the long text lies, and its number there: what stands behind the length of a reference."""
    heap = data.index(b"GCOL")
    while b"x" * 1000 not in data[heap : heap + 5000]:
        heap = data.index(b"GCOL", heap + 1)
    return heap.to_bytes(8, "little") + (1).to_bytes(4, "little")


# ---- bytes changed behind the back of HDF5


def edited(edit, make=lambda file, _: file.create_dataset("w", data=np.arange(64, dtype="f4"))):
    def done(path):
        with h5py.File(path, "w") as file:
            make(file, None)
        path.write_bytes(edit(bytearray(path.read_bytes())))

    return done


def replaced(offset, new):
    def edit(data):
        data[offset : offset + len(new)] = new
        return data

    return edit


def shape_of(value):
    """The one dataset has another length than was written: 64 becomes ``value``."""

    def edit(data):
        at = data.index((64).to_bytes(8, "little") * 2)
        data[at : at + 16] = value.to_bytes(8, "little") * 2
        return data

    return edit


def placed_at(value):
    """The values lie at another offset."""

    def edit(data):
        start = data.index(np.arange(64, dtype="f4").tobytes())
        at = data.index(start.to_bytes(8, "little") + (256).to_bytes(8, "little"))
        data[at : at + 8] = value.to_bytes(8, "little")
        return data

    return edit


def tree_of_groups_in_itself(data):
    """The node of the root's B-tree is its own child."""
    at = data.index(b"TREE")
    data[at + 5] = 1  # the level: its children are nodes
    data[at + 32 : at + 40] = at.to_bytes(8, "little")
    return data


def cut(data):
    return data[: len(data) // 2]


def in_front(data):
    return b"#!/bin/sh\nexit\n".ljust(512, b" ") + data


# name -> how it is made: of an open file or of a path, the errors that are due, the budget
CASES = {
    "external link to a file outside": (external("a", "{out}/canary.h5"), UNSAFE),
    "external link to a file of the system": (external("a", "/etc/passwd"), UNSAFE),
    "external link upwards": (external("a", "../../../etc/passwd"), UNSAFE),
    "external link to itself": (external("a", "external link to itself", "/a"), UNSAFE),
    "external link to nothing": (external("a", "{out}/none.h5", "/x"), UNSAFE),
    "external link to a device": (external("a", "/dev/zero"), UNSAFE),
    "external link deep down": (external("a/b/c/d", "{out}/canary.h5"), UNSAFE),
    "external link as a layer": (layer_that_is_a_link, UNSAFE),
    "external link as the weights of a model": (root_that_is_a_link, UNSAFE),
    "soft link": (soft(("a", "/w")), UNSAFE),
    "soft link to itself": (soft(("a", "/a")), UNSAFE),
    "soft links to each other": (soft(("a", "/b"), ("b", "/a")), UNSAFE),
    "soft link that dangles": (soft(("a", "/none/none")), UNSAFE),
    "soft link that is a thousand steps": (soft(("a", "/." * 1000)), UNSAFE),
    "soft link as the weights of a model": (soft(("model_weights", "/")), UNSAFE),
    "hard link to the root": (loop_to_the_root, DAMAGED),
    "hard link of a group to itself": (group_in_itself, DAMAGED),
    "hard link of a group in two places": (group_in_two_places, DAMAGED),
    "2^60 paths in 60 groups": (groups_of_groups_twice, DAMAGED),
    "one dataset with a hundred names": (dataset_with_a_hundred_names, LIMIT),
    "values in a file outside": (outer("{out}/canary"), UNSAFE),
    "values in a file upwards": (outer("../../../etc/passwd"), UNSAFE),
    "values in a device": (outer("/dev/zero"), UNSAFE),
    "values in a file that is missing": (outer("{out}/none"), UNSAFE),
    "values in itself": (outer("values in itself"), UNSAFE),
    "virtual dataset of a file outside": (virtual("{out}/canary.h5"), UNSAFE),
    "virtual dataset of a file by pattern": (virtual_by_pattern, UNSAFE),
    "virtual dataset of the same file": (virtual(".", "/v"), UNSAFE),
    "virtual dataset of itself": (virtual(".", "/w"), UNSAFE),
    "a terabyte that is not there": (declared((1 << 38,)), LIMIT),
    "a terabyte that is not there, and is allowed": (declared((1 << 38,)), DAMAGED, ROOMY),
    "a terabyte in chunks that are not there": (declared((1 << 38,), chunks=(1 << 18,)), (*DAMAGED, *LIMIT), ROOMY),
    "a terabyte with one chunk": (one_chunk_of((1 << 38,), (1 << 18,), deflate=1), (*DAMAGED, *LIMIT), ROOMY),
    "a chunk of a gigabyte for a byte": (
        lambda file, _: file.create_dataset("w", (1,), "f4", chunks=(1 << 28,), maxshape=(None,)),
        (*DAMAGED, *LIMIT),
        ROOMY,
    ),
    "a chunk of a gigabyte that is there": (one_chunk_of((1 << 28,), (1 << 28,), deflate=1), (*DAMAGED, *LIMIT)),
    "16 million chunks": (one_chunk_of((1 << 24,), (1,), deflate=1), (*DAMAGED, *LIMIT), ROOMY),
    "no length times a huge one": (declared((0, (1 << 62) - 1)), DAMAGED),
    "zeros that unpack to 64 MiB": (zeros(16 * MiB, compression="gzip"), LIMIT),
    "zeros packed twice": (packed_twice, LIMIT),
    "a chunk that unpacks to more": (chunk_that_unpacks_to_more, DAMAGED),
    "a chunk that unpacks to less": (chunk_that_unpacks_to_less, DAMAGED),
    "a chunk that is no stream": (chunk_that_is_no_stream, DAMAGED),
    "a chunk whose filters were skipped": (chunk_with_filters_skipped, DAMAGED),
    "a filter that is a plugin": (declared((64,), chunks=(64,), filters=(32004,)), UNKNOWN),
    "a filter of scale and offset": (zeros(64, chunks=(64,), scaleoffset=2), UNKNOWN),
    "groups 1,000 deep": (deep(1000), LIMIT),
    "3,000 datasets": (many(3000), LIMIT),
    "a name with a new line": (named(b"a\nb"), DAMAGED),
    "a name that is not UTF-8": (named(b"\xff\xfe"), DAMAGED),
    "a name that turns the text around": (named("a\u202eb".encode()), DAMAGED),
    "a type that is stored by itself": (committed_type, UNKNOWN),
    "texts without a fixed length": (kind(lambda: h5py.h5t.py_create(h5py.string_dtype(), logical=True)), UNKNOWN),
    "texts of a fixed length": (kind(lambda: text(8)), UNKNOWN),
    "lists without a fixed length": (kind(lambda: h5py.h5t.vlen_create(F4)), UNKNOWN),
    "references to objects": (kind(lambda: h5py.h5t.STD_REF_OBJ), UNKNOWN),
    "references to regions": (kind(lambda: h5py.h5t.STD_REF_DSETREG), UNKNOWN),
    "records": (kind(compound), UNKNOWN),
    "arrays as values": (kind(lambda: h5py.h5t.array_create(F4, (1 << 12,))), UNKNOWN),
    "bits as values": (kind(lambda: h5py.h5t.STD_B8LE), UNKNOWN),
    "floats of 16 bytes": (kind(wide_float), UNKNOWN),
    "integers of 17 bits": (kind(odd_integer), UNKNOWN),
    "an enumeration of three": (kind(three_names), UNKNOWN),
    "bytes that no attribute names": (kind(opaque), UNKNOWN),
    "no shape at all": (lambda file, _: dataset(file, "w", F4, None, null=True), UNKNOWN),
    "a configuration that is a number": (described("model_config", 3), UNKNOWN),
    "a configuration that is a list": (described("model_config", [b"a", b"b"]), UNKNOWN),
    "a configuration that is a reference": (
        lambda file, _: (file.create_dataset("w", data=1.0), file.attrs.create("model_config", file.ref)),
        UNKNOWN,
    ),
    "a configuration longer than the budget": (long_text(4 * MiB), LIMIT),
    "a configuration that is not UTF-8": (described("model_config", np.bytes_(b"\xff\xfe")), DAMAGED),
    "layers that are numbers": (described("layer_names", [1.0, 2.0]), UNKNOWN),
    "layers that are records": (lambda file, _: attribute(file, "layer_names", compound(), (2,)), UNKNOWN),
    "more layers than the budget": (texts_declared(3000, 8), LIMIT),
    "layers longer than the budget": (texts_declared(6, MiB), LIMIT),
    "the same long layer 2,000 times": (same_text_again("/", "layer_names"), LIMIT),
    "the same long name of a dtype 2,000 times": (same_text_again("w", "dtype"), UNKNOWN),
    "a dtype that is a list": (dtype_of(lambda: text(8), (3,)), UNKNOWN),
    "a dtype that is a long text": (dtype_of(lambda: text(8 * MiB)), (*UNKNOWN, *LIMIT)),
    "a dtype that is a record": (dtype_of(compound), UNKNOWN),
    "a dtype that is a number": (dtype_of(lambda: F4), UNKNOWN),
    "a layer that is missing": (layers(b"dense", b"none"), DAMAGED),
    "a layer that is a dataset": (layers(b"dense/w:0"), DAMAGED),
    "a layer named upwards": (layers(b"../../dense"), DAMAGED),
    "a layer without a name": (layers(b""), DAMAGED),
    "a layer whose name has a zero": (layers(np.bytes_(b"a\0b")), DAMAGED),
    "layers of a file that is cut off": (edited(cut), DAMAGED),
    "values past the end of the file": (edited(placed_at(1 << 40)), DAMAGED),
    "values before the beginning of the file": (edited(placed_at((1 << 64) - 4096)), DAMAGED),
    "values that are not allocated": (edited(placed_at((1 << 64) - 1)), DAMAGED),
    "a length of 2^63": (edited(shape_of(1 << 63)), (*DAMAGED, *LIMIT)),
    "a length of 2^61 floats": (edited(shape_of(1 << 61)), (*DAMAGED, *LIMIT), ROOMY),
    "a length that is longer": (edited(shape_of(65)), DAMAGED),
    "a tree of names in itself": (edited(tree_of_groups_in_itself), DAMAGED),
    "a superblock of another version": (edited(replaced(8, b"\x09")), DAMAGED),
    "addresses of 255 bytes": (edited(replaced(13, b"\xff")), DAMAGED),
    "a base address elsewhere": (edited(replaced(24, (512).to_bytes(8, "little"))), DAMAGED),
    "an end that is elsewhere": (edited(replaced(40, (1 << 40).to_bytes(8, "little"))), DAMAGED),
    "a root that is elsewhere": (edited(replaced(64, (1 << 40).to_bytes(8, "little"))), DAMAGED),
    "a root that is the superblock": (edited(replaced(64, bytes(8))), DAMAGED),
    "a script in front": (edited(in_front), (*UNKNOWN, *UNSAFE)),
    "a signature and nothing else": (edited(lambda data: data[:8]), DAMAGED),
}  # fmt: skip


def written(make, path, out):
    """Write the file; a maker of one argument takes the path itself."""
    if make.__code__.co_argcount == 1:
        make(path)
        return
    latest = make.__qualname__.startswith(("long_text", "texts_declared", "dtype_of"))
    with h5py.File(path, "w", libver="latest" if latest else None) as file:
        make(file, out)


def build(folder, out):
    """Every case as a file in ``folder``: name -> path."""
    found = {}
    for number, (name, (make, *_)) in enumerate(CASES.items()):
        found[name] = folder / f"{number}.h5"
        written(make, found[name], out)
    for name in ("external link to itself", "values in itself"):
        (folder / name).symlink_to(found[name])
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    out = outside(folder)
    with h5py.File(out / "canary.h5", "w") as file:
        file["w"] = np.ones(4, "f4")
    paths = build(folder, out)
    with h5py.File(folder / "warm.h5", "w") as file:
        file.create_dataset("w", data=np.ones(4, "f4"), compression="gzip")
        file.attrs["layer_names"] = ["a"]
        file["a"] = np.ones(4, ">f4")
        file.create_group("g").attrs["weight_names"] = []
        file.attrs["layer_names"] = [b"g"]
    cases = {name: (path, case[2] if len(case := CASES[name]) > 2 else BUDGET) for name, path in paths.items()}
    return run_cases(folder, cases, folder / "warm.h5")


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_a_typed_error(outcomes, name):
    check_outcome(outcomes[name], CASES[name][1], MiB)


def test_the_watch_sees_what_hdf5_opens_behind_the_back_of_python(tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    out = outside(folder)
    with h5py.File(out / "canary.h5", "w") as file:
        file["w"] = np.ones(4, "f4")
    kernel = hostile._Kernel(os.fspath(out))
    with h5py.File(folder / "x.h5", "w") as file, contextlib.suppress(KeyError):
        file["a"] = h5py.ExternalLink(os.fspath(out / "canary.h5"), "/w")
        assert kernel.events() == []
        assert file["a"].shape == (4,)
    assert any("canary.h5" in event for event in kernel.events())


WORST = ("a tree of names in itself", "virtual dataset of a file by pattern")
"""What crashes HDF5's library, and what makes it look for files without end when it is asked for the shape."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in WORST else pytest.mark.torture) for name in CASES]
)
def test_the_scan_of_a_hostile_file_ends_and_opens_no_other(tmp_path, name):
    folder = tmp_path / "hostile"
    folder.mkdir()
    out = outside(folder)
    written(CASES[name][0], folder / "x.h5", out)
    kernel = hostile._Kernel(os.fspath(out))
    with contextlib.suppress(UnknownFormat):
        verdict = scan(folder / "x.h5", budget=Budget(**BUDGET)).verdict
        assert verdict != "clean" or name not in WORST
    assert kernel.events() == []
