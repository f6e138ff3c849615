"""What a file is: told by its bytes, never by its name. A name that says otherwise is a finding."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modelkeep.scan import (
    arrays,
    compressed,
    documents,
    hdf5,
    onnx,
    pickles,
    saved_model,
    tars,
    tensors,
    tflite,
    zips,
)
from modelkeep.scan.findings import Finding, damaged
from modelkeep.scan.source import Context, Source

_NATIVE = (b"\x7fELF", b"MZ\x90\x00", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa\xcf", b"!<arch>\n")


@dataclass(frozen=True, slots=True)
class Kind:
    """One format: its short name, how it is called, how it is told, and how it is scanned."""

    name: str
    title: str
    tell: Callable[[Source], bool]
    scan: Callable[[Source, Context], list[Finding]]


def _starts(*magics: bytes) -> Callable[[Source], bool]:
    return lambda source: source.read(0, 8).startswith(magics)


def _is_json(source: Source) -> bool:
    return source.read(0, 64).lstrip(b" \t\r\n\xef\xbb\xbf")[:1] in {b"{", b"["} and b"\0" not in source.read(0, 1024)


def _native(source: Source, _context: Context) -> list[Finding]:
    why = "loaded as a library it runs with all your rights"
    return [Finding(source.name, "native code", "unsafe", why, "build it yourself, from source that you have read")]


def _python(source: Source, _context: Context) -> list[Finding]:
    why = "a library that trusts the folder imports it, which runs it"
    return [
        Finding(source.name, "Python code", "suspicious", why, "read it, and load without it (trust_remote_code=False)")
    ]


KINDS: tuple[Kind, ...] = (
    Kind("zip", "zip archive", _starts(b"PK\x03\x04", b"PK\x05\x06"), zips.findings),
    Kind("hdf5", "HDF5", lambda source: hdf5.begins_at(source) == 0, hdf5.findings),
    Kind("npy", "NumPy array", _starts(arrays.MAGIC), arrays.findings),
    Kind("tflite", "TFLite model", tflite.looks_like, tflite.findings),
    Kind("compressed", "compressed file", compressed.looks_like, compressed.findings),
    Kind("safetensors", "safetensors", tensors.looks_like, tensors.findings),
    Kind("tar", "tar archive", tars.looks_like, tars.findings),
    Kind("native", "native code", _starts(*_NATIVE), _native),
    Kind("saved_model", "SavedModel", saved_model.looks_like, saved_model.findings),
    Kind("onnx", "ONNX model", onnx.looks_like, onnx.findings),
    Kind("json", "JSON", _is_json, documents.findings),
    Kind("python", "Python code", lambda source: source.suffix in {".py", ".pyc", ".pth.py"}, _python),
    Kind("pickle", "pickle", pickles.looks_like, pickles.findings),
    Kind("metadata", "Keras metadata", saved_model.looks_like_keras_metadata, saved_model.findings_of_keras_metadata),
    Kind("graph", "TensorFlow graph", saved_model.looks_like_graph, saved_model.findings_of_graph),
    Kind("hdf5", "HDF5", lambda source: hdf5.begins_at(source) is not None, hdf5.findings),
    Kind("zip", "zip archive", lambda source: source.whole and zips.reads_as_zip(source), zips.findings),
)
"""In the order in which they are tried; the last two are those that may begin with other bytes."""

_TORCH = {"zip", "pickle", "tar"}
_PICKLED = {"pickle", "compressed"}
_MEANT = {
    ".safetensors": {"safetensors"}, ".npy": {"npy"}, ".npz": {"zip"}, ".keras": {"zip"}, ".h5": {"hdf5"},
    ".hdf5": {"hdf5"}, ".onnx": {"onnx"}, ".tflite": {"tflite"}, ".lite": {"tflite"}, ".json": {"json"},
    ".pt": _TORCH, ".pth": _TORCH, ".pkl": _PICKLED, ".pickle": _PICKLED, ".joblib": _PICKLED, ".zip": {"zip"},
    ".tar": {"tar"}, ".gz": {"compressed"}, ".bz2": {"compressed"}, ".xz": {"compressed"}, ".tgz": {"compressed"},
    ".pb": {"saved_model", "graph", "metadata", "onnx"},
    **{ending: {"json"} for ending in (".txt", ".md", ".csv", ".yaml", ".yml", ".rst", ".html", ".jpg", ".png")},
}  # fmt: skip
_MUST_BE = {
    ".safetensors",
    ".npy",
    ".npz",
    ".keras",
    ".h5",
    ".hdf5",
    ".tflite",
    ".onnx",
    ".zip",
    ".pkl",
    ".pickle",
    ".joblib",
}
"""Endings whose files have bytes that tell; what begins otherwise is damaged."""


def kind_of(source: Source) -> Kind | None:
    """The format of a file, or None when its bytes say nothing that could do harm when loaded."""
    return next((kind for kind in KINDS if kind.tell(source)), None)


def of_name(source: Source, kind: Kind | None) -> Iterator[Finding]:
    """At most one finding: a name that says another format than the bytes do."""
    meant = _MEANT.get(source.suffix)
    if kind is not None and meant is not None and kind.name not in meant and kind.name != "python":
        what = f"named {source.suffix}, and it is a {kind.title}"
        why = "names that lie lead scanners astray, and loaders that go by bytes load it all the same"
        yield Finding(source.name, what, "suspicious", why, "ask where it comes from; give it the name of its format")
    elif kind is None and source.suffix in _MUST_BE:
        yield damaged(source.name, f"named {source.suffix}, and its bytes are not of that format")


def of_second_format(source: Source, kind: Kind | None, context: Context) -> Iterator[Finding]:
    """Findings of a file that other programs take for another format: a zip at its end, HDF5 or a pickle within."""
    if kind is None or kind.name in {"zip", "tar", "compressed", "json", "tflite", "python"} or not source.whole:
        return
    second: Kind | None = None
    if zips.reads_as_zip(source):
        second = KINDS[0]
    elif kind.name != "hdf5" and hdf5.begins_at(source) is not None:
        second = KINDS[1]
    elif kind.name != "pickle" and pickles.imports_something(source):
        second = next(one for one in KINDS if one.name == "pickle")
    if second is not None:
        what, why = f"a {kind.title} that is a {second.title} too", "which of the two it is depends on who loads it"
        yield Finding(source.name, what, "suspicious", why, "ask where it comes from")
        yield from second.scan(source, context)
