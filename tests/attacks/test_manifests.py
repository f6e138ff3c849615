"""Keeps that somebody else has edited, who can compute digests too: each is a typed error."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import modelkeep as mk
from modelkeep.snapshot.canonical import canonical_json, seal
from modelkeep.snapshot.pieces import digest

from .hostile import MiB, check_outcome, outside, run_cases

DAMAGED, LIMIT, UNKNOWN = ("Damaged",), ("LimitExceeded",), ("UnknownFormat",)
GONE, REFUSED = ("NotFound",), ("Damaged", "StorageError")
STATE = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.arange(4), "n": 3}
OTHER = {"a": np.ones((2, 3), "f4"), "b": np.zeros(4, "i8"), "n": 3}


class Edited:
    """A keep with two snapshots of one shape, the first of which is changed; ``ref`` is what is loaded."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self.out = folder, out
        keep = mk.open(folder)
        self.first, self.other = keep.save_state(STATE), keep.save_state(OTHER)
        self.ref = f"snapshot:{self.first.id}"
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)

    def path(self, snapshot) -> Path:
        return self.folder / "snapshots" / snapshot.id[:2] / f"{snapshot.id}.json"

    def shard(self, snapshot) -> Path:
        (name,) = snapshot.shards
        return self.folder / "shards" / name[:2] / f"{name}.safetensors"

    def document(self):
        found = json.loads(self.path(self.first).read_bytes())
        del found["digest"]
        return found

    def write(self, document, *, sealed=True) -> None:
        """The record as an attacker would have it: with the id and the digest of what it says now."""
        document["id"] = str(digest(canonical_json(document["logical"])))
        self.raw(document["id"], seal(document) if sealed else canonical_json(document))

    def raw(self, name: str, data: bytes) -> None:
        place = self.folder / "snapshots" / name[:2] / f"{name}.json"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
        self.ref = f"snapshot:{name}"


def logical(edit):
    def act(keep):
        document = keep.document()
        edit(document["logical"])
        keep.write(document)

    return act


def tensor(**fields):
    return logical(lambda found: found["tensors"]["a"].update(fields))


def repeated(found):
    found["tensors"]["a"]["pieces"] *= 9


def node(value):
    """A node of the tree."""
    return logical(lambda found: found["tree"].update(n=value))


def whole(edit):
    def act(keep):
        document = keep.document()
        edit(document, keep)
        keep.write(document)

    return act


def renamed_tensor(name, node=None):
    def edit(found):
        found["tensors"][name] = found["tensors"].pop("a")
        found["tree"] = node if node is not None else {name: {"$": "tensor"}, "b": {"$": "tensor"}, "n": 3}

    return logical(edit)


def renamed_shard(name):
    def edit(document, _):
        (old,) = document["shards"]
        document["shards"][name] = document["shards"].pop(old)
        document["pieces"] = {key: [name, *rest] for key, (_, *rest) in document["pieces"].items()}

    return whole(edit)


def piece(index, value):
    def edit(document, _):
        for place in document["pieces"].values():
            place[index] = value

    return whole(edit)


def deep(levels):
    def act(keep):
        name, text = keep.first.id, keep.path(keep.first).read_bytes()
        nested = b'{"a":' * levels + b"1" + b"}" * levels
        keep.raw(name, text.replace(b'"n":3', b'"n":' + nested))

    return act


def text_of(old, new):
    """Bytes of the record replaced, with nothing computed anew."""

    def act(keep):
        data = keep.path(keep.first).read_bytes()
        assert old in data
        keep.raw(keep.first.id, data.replace(old, new, 1))

    return act


def names_pieces_of_another(document, keep):
    """The places of the second snapshot under the digests of the first."""
    other = json.loads(keep.path(keep.other).read_bytes())
    document["shards"] = other["shards"]
    by_key = {place[1]: place for place in other["pieces"].values()}
    document["pieces"] = {key: by_key[place[1]] for key, place in document["pieces"].items()}


def swapped_pieces(document, _):
    """Two tensors of the snapshot trade their places."""
    one, two = document["pieces"]
    document["pieces"][one], document["pieces"][two] = document["pieces"][two], document["pieces"][one]


def swapped_shards(keep):
    one, two = keep.shard(keep.first), keep.shard(keep.other)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def swapped_records(keep):
    """The file of the one snapshot under the name of the other."""
    shutil.copy(keep.path(keep.other), keep.path(keep.first))


def replaced_by(make, which="record"):
    def act(keep):
        path = keep.path(keep.first) if which == "record" else keep.shard(keep.first)
        path.unlink()
        make(path, keep)

    return act


def linked_folder(keep):
    place = keep.shard(keep.first).parent
    shutil.move(place, keep.out / place.name)
    place.symlink_to(keep.out / place.name)


def shard_bytes(edit):
    def act(keep):
        path = keep.shard(keep.first)
        path.write_bytes(edit(bytearray(path.read_bytes())))

    return act


def patched(offset, data):
    def edit(found):
        found[offset : offset + len(data)] = data
        return found

    return edit


def settings(**fields):
    """The keep's own document."""

    def act(keep):
        path = keep.folder / "keep.json"
        document = json.loads(path.read_bytes())
        del document["digest"]
        path.write_bytes(seal({**document, **fields}))

    return act


def settings_raw(data):
    return lambda keep: (keep.folder / "keep.json").write_bytes(data)


def version(**fields):
    """A version of a model whose document says something else."""

    def act(keep):
        mk.open(keep.folder).store.model("m").publish(keep.first)
        (path,) = (keep.folder / "models" / "m" / "versions").iterdir()
        path.chmod(0o644)
        document = json.loads(path.read_bytes())
        del document["digest"]
        path.write_bytes(seal({**document, **fields}))
        keep.ref = "model:m@1"

    return act


def big(path, _):
    with path.open("wb") as file:
        file.truncate(1 << 40)


HUGE = 1 << 62
# name -> what is done to the keep, and the errors that are due
CASES = {
    "a tensor named upwards": (renamed_tensor("../../evil"), DAMAGED),
    "a tensor of two places": (renamed_tensor("b/c"), DAMAGED),
    "a tree that names no tensor": (logical(lambda found: found.update(tree={"n": 3})), DAMAGED),
    "a tree of an unknown kind": (node({"$": "pickle", "value": "x"}), UNKNOWN),
    "a tree that calls a function": (node({"$": "call", "name": "os.system"}), UNKNOWN),
    "a tree nested deeply": (deep(5000), LIMIT),
    "a tree nested a million times": (deep(1_000_000), LIMIT),
    "NaN": (text_of(b'"n":3', b'"n":NaN'), DAMAGED),
    "an infinity": (text_of(b'"n":3', b'"n":1e999'), DAMAGED),
    "a key twice": (text_of(b'"n":3', b'"n":3,"n":4'), DAMAGED),
    "a key twice with one value": (text_of(b'"n":3', b'"n":3,"n":3'), DAMAGED),
    "a number of a thousand digits": (text_of(b'"n":3', b'"n":' + b"9" * 5000), DAMAGED),
    "another spelling of the same": (text_of(b'"n":3', b'"n": 3'), DAMAGED),
    "a lone surrogate": (text_of(b'"n":3', b'"n":"\\ud800"'), DAMAGED),
    "bytes that are no UTF-8": (text_of(b'"n":3', b'"n":"\xff"'), DAMAGED),
    "a value that was changed": (text_of(b'"n":3', b'"n":4'), DAMAGED),
    "no digest": (lambda keep: keep.write(keep.document(), sealed=False), DAMAGED),
    "an id that is another": (lambda keep: keep.raw("0" * 64, seal(keep.document())), DAMAGED),
    "another snapshot under the id": (swapped_records, DAMAGED),
    "a field too many": (whole(lambda document, _: document.update(hook="os.system")), DAMAGED),
    "a newer format": (whole(lambda document, _: document.update(modelkeep=99)), UNKNOWN),
    "a format that is true": (whole(lambda document, _: document.update(modelkeep=True)), UNKNOWN),
    "an array of an exabyte": (tensor(shape=[HUGE]), (*DAMAGED, *LIMIT)),
    "an array whose size overflows": (tensor(shape=[HUGE, HUGE, HUGE]), (*DAMAGED, *LIMIT)),
    "an array of no size times much": (tensor(shape=[0, HUGE, HUGE]), (*DAMAGED, *LIMIT)),
    "an array of a thousand axes": (tensor(shape=[1] * 1000), (*DAMAGED, *LIMIT)),
    "an array of another shape": (tensor(shape=[3, 3]), DAMAGED),
    "a negative axis": (tensor(shape=[-2, 3]), DAMAGED),
    "an axis that is a text": (tensor(shape=["2", 3]), DAMAGED),
    "an axis that is true": (tensor(shape=[True, 3]), DAMAGED),
    "a shape that is no list": (tensor(shape={"0": 2}), DAMAGED),
    "a dtype of objects": (tensor(dtype="object"), UNKNOWN),
    "a dtype that numpy would parse": (tensor(dtype="O,O"), UNKNOWN),
    "a dtype that is wider": (tensor(dtype="float64"), DAMAGED),
    "texts made of numbers": (tensor(dtype="str"), DAMAGED),
    "a dtype that is a number": (tensor(dtype=3), (*DAMAGED, *UNKNOWN)),
    "pieces that are none": (tensor(pieces=[]), DAMAGED),
    "pieces of nothing": (tensor(pieces=["../../x"]), DAMAGED),
    "the same piece many times": (logical(repeated), DAMAGED),
    "rows of a piece that are none": (tensor(piece_rows=0), DAMAGED),
    "rows of a piece that are negative": (tensor(piece_rows=-1), DAMAGED),
    "a shard named upwards": (renamed_shard("../../../etc/passwd"), DAMAGED),
    "a shard of the root": (renamed_shard("/etc/passwd"), DAMAGED),
    "a shard with a zero in its name": (renamed_shard("ab\0cd-1"), DAMAGED),
    "a shard that is not there": (renamed_shard("0123456789abcdef-7"), DAMAGED),
    "a shard that is larger": (
        whole(lambda document, _: [one.update(size=HUGE) for one in document["shards"].values()]),
        LIMIT,
    ),
    "a shard of another header": (
        whole(lambda document, _: [one.update(header="0" * 64) for one in document["shards"].values()]),
        DAMAGED,
    ),
    "pieces of a negative size": (piece(2, -1), DAMAGED),
    "pieces of a huge size": (piece(2, HUGE), LIMIT),
    "pieces at another key": (piece(1, "nothing"), DAMAGED),
    "pieces at a key upwards": (piece(1, "../../evil"), DAMAGED),
    "pieces of another snapshot": (whole(names_pieces_of_another), DAMAGED),
    "pieces of each other": (whole(swapped_pieces), DAMAGED),
    "shards of each other": (swapped_shards, DAMAGED),
    "a shard that is a link to another": (
        replaced_by(lambda path, keep: path.symlink_to(keep.shard(keep.other)), "shard"),
        REFUSED,
    ),
    "a shard that is a link outside": (
        replaced_by(lambda path, keep: path.symlink_to(keep.out / "canary"), "shard"),
        REFUSED,
    ),
    "a record that is a link outside": (
        replaced_by(lambda path, keep: path.symlink_to(keep.out / "canary")),
        REFUSED,
    ),
    "a record that is a link to a device": (replaced_by(lambda path, _: path.symlink_to("/dev/zero")), REFUSED),
    "a record that is a pipe": (replaced_by(lambda path, _: os.mkfifo(path)), REFUSED),
    "a record that is a folder": (replaced_by(lambda path, _: path.mkdir()), REFUSED),
    "a shard that is a pipe": (replaced_by(lambda path, _: os.mkfifo(path), "shard"), REFUSED),
    "a folder of shards that is a link": (linked_folder, REFUSED),
    "a record of a terabyte of nothing": (replaced_by(big), LIMIT),
    "a shard of a terabyte of nothing": (replaced_by(big, "shard"), DAMAGED),
    "a shard cut off": (shard_bytes(lambda data: data[:-1]), DAMAGED),
    "a shard with more behind": (shard_bytes(lambda data: data + b"more"), DAMAGED),
    "a header of an exabyte": (shard_bytes(patched(0, (1 << 60).to_bytes(8, "little"))), DAMAGED),
    "a header that is a script": (shard_bytes(patched(8, b"#!/bin/sh")), DAMAGED),
    "a flipped bit of a value": (shard_bytes(lambda data: data[:-1] + bytes([data[-1] ^ 1])), DAMAGED),
    "a keep of a newer format": (settings(modelkeep=99), UNKNOWN),
    "a keep that is no JSON": (settings_raw(b"#!/bin/sh"), DAMAGED),
    "a keep that is empty": (settings_raw(b""), DAMAGED),
    "a keep nested deeply": (settings_raw(b"[" * 100_000), (*DAMAGED, *LIMIT)),
    "a version of a snapshot upwards": (version(snapshot="../../etc/passwd"), DAMAGED),
    "a version of a snapshot that is not there": (version(snapshot="0" * 64), (*DAMAGED, *GONE)),
    "a version of another number": (version(number=7), DAMAGED),
    "a version of another model": (version(model="evil"), DAMAGED),
    "a version of a number that is a text": (version(number="1"), DAMAGED),
    "a version whose metrics are code": (version(metrics={"x": "__import__('os')"}), DAMAGED),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    out, cases = outside(folder), {}
    for number, (name, (act, _)) in enumerate(CASES.items()):
        keep = Edited(folder / str(number), out)
        act(keep)
        cases[name] = (keep.folder, {"ref": keep.ref, "nbytes": MiB})
    good = Edited(folder / "warm", out)
    mk.open(good.folder).store.model("m").publish(good.first)
    return run_cases(folder, cases, folder / "warm", "keep")


@pytest.mark.parametrize("name", CASES)
def test_a_keep_that_was_edited_is_a_typed_error(outcomes, name):
    check_outcome(outcomes[name], CASES[name][1], MiB)
