"""ONNX: external data outside the folder, operations that are not in the standard, in all subgraphs and functions."""

from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files

from modelkeep.errors import LimitExceeded
from modelkeep.scan import wire
from modelkeep.scan.findings import Finding, damaged
from modelkeep.scan.source import Context, Source, leaves_folder

_LARGEST = 2 << 30
_GRAPH, _OPSETS, _METADATA, _FUNCTIONS, _TRAINING = 7, 8, 14, 25, 20
_KNOWN_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}
_TAGS = {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72}
_RUNTIME = {"com.microsoft", "com.microsoft.nchwc", "com.microsoft.experimental", "com.ms.internal.nhwc"}
"""Domains that onnxruntime itself implements; its quantised models use them."""
_STANDARD = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "ai.onnx.preview"}


def looks_like(source: Source) -> bool:
    """Whether it is a ModelProto: fields of its own alone, an IR version, and a graph or a set of operations."""
    head = source.read(0, 3)  # an IR version below 32, and then another field of a ModelProto
    if len(head) < 3 or head[0] != 8 or head[1] > 31 or head[2] not in _TAGS or source.size > _LARGEST:
        return False
    try:
        numbers = {field.number for field in wire.fields(memoryview(source.read(0, source.size)))}
    except ValueError:
        return False
    return numbers <= _KNOWN_FIELDS and 1 in numbers and bool(numbers & {_GRAPH, _OPSETS})


@lru_cache(maxsize=1)
def _standard_ops() -> frozenset[str]:
    return frozenset((files("modelkeep.scan") / "onnx_ops.txt").read_text("utf-8").split())


def findings(source: Source, context: Context) -> list[Finding]:
    """Findings of one model. Raises LimitExceeded for one that is larger, or nested deeper, than the budget."""
    context.budget.check("nbytes", source.size, source.name)
    message = memoryview(source.read(0, source.size))
    try:
        functions = {(wire.text(one, 10), wire.text(one, 1)) for one in wire.messages(message, _FUNCTIONS)}
        found: list[Finding] = []
        for graph in wire.messages(message, _GRAPH):
            found.extend(_of_graph(graph, source, context, functions, 0))
        for graph in (*wire.messages(message, _TRAINING, 1), *wire.messages(message, _TRAINING, 2)):
            found.extend(_of_graph(graph, source, context, functions, 0))
        for one in wire.messages(message, _FUNCTIONS):
            for node in wire.messages(one, 7):
                found.extend(_of_node(node, source, context, functions, 0))
    except ValueError as error:
        return [damaged(source.name, f"it is no protocol buffer ({error})")]
    return found


def _of_graph(
    graph: memoryview, source: Source, context: Context, functions: set[tuple[str, str]], depth: int
) -> Iterator[Finding]:
    if depth > context.budget.depth:
        raise LimitExceeded(
            f"{source.name}: graphs within graphs, deeper than the {context.budget.depth} levels allowed"
        )
    for field in wire.fields(graph):
        if not isinstance(field.value, memoryview):
            continue
        if field.number == 1:
            yield from _of_node(field.value, source, context, functions, depth)
        elif field.number == 5:
            yield from _of_tensor(field.value, source)
        elif field.number == 15:
            for tensor in (*wire.messages(field.value, 1), *wire.messages(field.value, 2)):
                yield from _of_tensor(tensor, source)


def _of_node(
    node: memoryview, source: Source, context: Context, functions: set[tuple[str, str]], depth: int
) -> Iterator[Finding]:
    op, domain = wire.text(node, 4), wire.text(node, 7)
    name = f"{domain}:{op}" if domain not in {"", "ai.onnx"} else op
    if (
        (domain, op) not in functions
        and domain not in _RUNTIME
        and not (domain in _STANDARD and name in _standard_ops())
    ):
        why = "it is not in the standard: a library of native code or Python has to be loaded for it"
        place = f"{source.name} {wire.text(node, 3) or op}"
        yield Finding(place, f"the custom operation {name}", "suspicious", why, "ask its author what it does")
    for attribute in wire.messages(node, 5):
        for tensor in (*wire.messages(attribute, 5), *wire.messages(attribute, 10)):
            yield from _of_tensor(tensor, source)
        for sparse in (*wire.messages(attribute, 22), *wire.messages(attribute, 23)):
            for tensor in (*wire.messages(sparse, 1), *wire.messages(sparse, 2)):
                yield from _of_tensor(tensor, source)
        for graph in (*wire.messages(attribute, 6), *wire.messages(attribute, 11)):
            yield from _of_graph(graph, source, context, functions, depth + 1)


def _of_tensor(tensor: memoryview, source: Source) -> Iterator[Finding]:
    entries = {wire.text(one, 1): wire.text(one, 2) for one in wire.messages(tensor, 13)}
    if not entries:
        return
    location = entries.get("location", "")
    place = f"{source.name} {wire.text(tensor, 8)}".rstrip()
    if leaves_folder(location):
        what, why = f"reads its values from {location[:200]}", "loading opens a file outside the model's folder"
        yield Finding(place, what, "unsafe", why, "do not load it")
    elif source.folder is not None:
        yield from _of_data_file(source, location, place, entries)


def _of_data_file(source: Source, location: str, place: str, entries: dict[str, str]) -> Iterator[Finding]:
    assert source.folder is not None
    path = source.folder / location
    if path.is_symlink() or not path.resolve().is_relative_to(source.folder.resolve()):
        what, why = f"reads its values from {location[:200]}, a symbolic link", "it leads to a file elsewhere"
        yield Finding(place, what, "unsafe", why, "do not load it")
    elif path.exists() and not path.is_file():
        what, why = f"reads its values from {location[:200]}, which is no file", "a device or a pipe may never end"
        yield Finding(place, what, "unsafe", why, "do not load it")
    elif not path.exists():
        yield damaged(place, f"its values are in {location[:200]}, which is missing")
    elif _last(entries) > path.stat().st_size:
        yield damaged(place, f"its values end behind the end of {location[:200]}")


def _last(entries: dict[str, str]) -> int:
    try:
        return int(entries.get("offset", "0") or 0) + int(entries.get("length", "0") or 0)
    except ValueError:
        return 1 << 62
