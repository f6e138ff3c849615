"""Coverage-guided fuzzing of what reads foreign bytes: ``fuzz.py TARGET CORPUS [options of libFuzzer]``.

The rule of every target: an error of `modelkeep.errors`, or none. Anything else, ten seconds, or more memory than
``-rss_limit_mb`` ends the process with the bytes that did it in ``crash-…`` (`reproduce` runs a target on them alone).
HDF5's library is not fuzzed here: it runs in a child of its own, because it does crash.
"""

import importlib
import sys
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["modelkeep"]):
    from modelkeep.budget import Budget
    from modelkeep.errors import ModelkeepError
    from modelkeep.importers import hdf5, opening
    from modelkeep.importers.crc32c import crc32c, masked
    from modelkeep.importers.source import Memory
    from modelkeep.importers.tensorflow import read_checkpoint
    from modelkeep.scan import face, kinds
    from modelkeep.scan.source import Context, Tally
    from modelkeep.scan.source import Source as Scanned
    from modelkeep.snapshot.canonical import canonical_json, parse_json, seal
    from modelkeep.snapshot.pieces import digest
    from modelkeep.snapshot.record import Snapshot

sys.path.insert(0, str(Path(__file__).parent))
from wrapping import table, torch_zip

PART = "file.data-00000-of-00001"
"""The values of a checkpoint, in the current folder."""

BUDGET = Budget(nbytes=1 << 20, text=1 << 20, entries=5_000, nodes=5_000, vocabulary=5_000, parameters=1 << 20)


def weights(data):
    """Any file: safetensors, zips, npy, torch's old form, ONNX, indexes, by its first bytes."""
    if not data.startswith(hdf5.SIGNATURE):
        read_all(opening._open_file(Memory(data, "file"), BUDGET))


def torch(data):
    """The pickle of a ``.pt`` file, within a zip whose checksums are right."""
    read_all(opening._open_file(Memory(torch_zip(data), "file"), BUDGET))


def checkpoint(data):
    """A block of the index of a TensorFlow checkpoint, in a table whose checksums are right."""
    read_all(read_checkpoint(Memory(table(data, masked_crc), "file.index"), ".", "file", BUDGET))


def scan(data):
    """A file that is scanned, as what its bytes and its name say; without the parts that HDF5's library reads."""
    suffix = SUFFIXES[data[0] % len(SUFFIXES)] if data else ""
    face._look(Scanned.of_bytes(f"file{suffix}", data[1:]), Context(BUDGET, face._look, Tally()))


def record(data):
    """A record of a snapshot, with the id and the seal that its content should have."""
    document = parse_json(data, limit_bytes=1 << 20, max_depth=64)
    if isinstance(document, dict):
        document.pop("digest", None)
        document["id"] = digest(canonical_json(document.get("logical")))
        Snapshot.from_json(seal(document), "commits/x.json", limit_bytes=1 << 20)


def architecture(data):
    """The configuration of a model, walked as far as Keras would be called."""
    from modelkeep.model.allowlist import allow
    from modelkeep.model.walk import Walk

    document = parse_json(data, limit_bytes=1 << 20, max_depth=64)
    Walk(allow(None), BUDGET).model(document)


def read_all(found):
    for tensor in found.tensors.values():
        tensor.read()


def masked_crc(data):
    return masked(crc32c(data))


TARGETS = {one.__name__: one for one in (weights, torch, checkpoint, scan, record, architecture)}
SUFFIXES = (".keras", ".pt", ".npz", ".safetensors", ".onnx", ".tflite", ".pb", ".json", ".pkl", "")


def reproduce(name, data):
    """Run a target on these bytes; what it raises beside our own errors is a finding."""
    with suppress(ModelkeepError):
        TARGETS[name](data)


def main():
    name = sys.argv.pop(1)
    if name == "architecture":  # Keras takes seconds to import, and no other target has need of it
        with atheris.instrument_imports(include=["modelkeep"]):
            importlib.import_module("modelkeep.model.walk")
    Path(PART).write_bytes(bytes(4096))
    kinds.hdf5.findings = lambda source, context: []
    atheris.Setup(sys.argv, lambda data: reproduce(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
