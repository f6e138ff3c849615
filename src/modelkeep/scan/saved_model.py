"""TensorFlow SavedModels and graphs: operations that reach files, the network or Python, in all functions."""

from collections.abc import Iterator
from pathlib import Path

from modelkeep.scan import graph as graphs
from modelkeep.scan import keras_config, wire
from modelkeep.scan.findings import Finding, damaged
from modelkeep.scan.source import Context, Source, leaves_folder
from modelkeep.scan.strict_json import parse
from modelkeep.scan.tensorflow_ops import FORBIDDEN, NAMED_FILES, NAMED_IN_ATTRIBUTES, known

_LARGEST = 2 << 30
"""Protocol buffers are at most 2 GiB."""
_DO_NOT = (
    "do not serve it; have it exported anew without this operation, or load its variables alone (modelkeep import)"
)
_ADDRESS = "://"
_METADATA = 5
"""The field of a SavedObject of Keras 2 that holds its configuration."""


def looks_like(source: Source) -> bool:
    """Whether it begins like a SavedModel: schema version 1, then a MetaGraphDef."""
    return source.read(0, 3) == b"\x08\x01\x12"


def looks_like_graph(source: Source) -> bool:
    """Whether the whole is a GraphDef: nodes with a name and an operation, as a frozen graph has."""
    if source.read(0, 1) != b"\x0a" or b"\x0a" not in source.read(2, 10) or source.size > _LARGEST or not source.whole:
        return False
    try:
        message = memoryview(source.read(0, source.size))
        if not all(field.number in {1, 2, 3, 4, 5} for field in wire.fields(message)):
            return False
        first = next(wire.messages(message, 1))
        return wire.text(first, 2) in known() and bool(wire.text(first, 1))
    except (ValueError, StopIteration):
        return False


def looks_like_keras_metadata(source: Source) -> bool:
    """Whether its first field is an object of Keras 2: a message that holds JSON."""
    if source.read(0, 1) != b"\x0a" or source.size > _LARGEST or b"_tf_keras_" not in source.read(0, 4096):
        return False
    try:
        first = next(wire.messages(memoryview(source.read(0, source.size)), 1))
        return bytes(next(wire.messages(first, _METADATA), b""))[:1] == b"{"
    except (ValueError, StopIteration):
        return False


def findings(source: Source, context: Context) -> list[Finding]:
    """Findings of a `saved_model.pb` with the folder that it lies in."""
    message, found = _message(source, context)
    try:
        for meta in wire.messages(message, 2):
            assets = [wire.text(one, 2) for one in wire.messages(meta, 6)]
            found.extend(_of_assets(assets, source))
            for message_of_graph in wire.messages(meta, 2):
                graph = graphs.read(message_of_graph)
                graph.bound.update(_bound(meta))
                found.extend(_of_graph(graph, source.name, context, assets=bool(assets)))
    except ValueError as error:
        found.append(damaged(source.name, f"it is no protocol buffer ({error})"))
    return found


def findings_of_graph(source: Source, context: Context) -> list[Finding]:
    """Findings of a frozen graph."""
    message, found = _message(source, context)
    try:
        return [*found, *_of_graph(graphs.read(message), source.name, context, assets=False)]
    except ValueError as error:
        return [*found, damaged(source.name, f"it is no protocol buffer ({error})")]


def findings_of_keras_metadata(source: Source, context: Context) -> list[Finding]:
    """Findings of the `keras_metadata.pb` that Keras 2 puts beside a SavedModel: a configuration for each object."""
    message, found = _message(source, context)
    try:
        for index, one in enumerate(wire.messages(message, 1)):
            text = bytes(next(wire.messages(one, _METADATA), b""))
            if text.startswith(b"{"):
                value = parse(text, source.name, context).value
                found.extend(keras_config.findings(value, f"{source.name} object {index}", context))
    except ValueError as error:
        found.append(damaged(source.name, f"it is no metadata of Keras ({str(error)[:100]})"))
    return found


def _message(source: Source, context: Context) -> tuple[memoryview, list[Finding]]:
    context.budget.check("nbytes", source.size, source.name)
    if source.size > _LARGEST:
        return memoryview(b""), [
            damaged(source.name, f"{source.size:,} bytes, and a protocol buffer has at most 2 GiB")
        ]
    return memoryview(source.read(0, source.size)), []


def _bound(meta: memoryview) -> Iterator[tuple[str, list[str]]]:
    """Of each function that Python calls: whether the objects bound to its last arguments are assets, or others."""
    for objects in wire.messages(meta, 7):
        kinds = [
            graphs.ARGUMENT if any(field.number == _ASSET for field in wire.fields(one)) else "an object of the model"
            for one in wire.messages(objects, 1)
        ]
        for entry in wire.messages(objects, 2):
            for function in wire.messages(entry, 2):
                numbers = wire.numbers(function, 2)
                yield wire.text(entry, 1), [kinds[one] if one < len(kinds) else "nothing" for one in numbers]


_ASSET = 5


def _of_assets(assets: list[str], source: Source) -> Iterator[Finding]:
    for name in assets:
        if leaves_folder(name):
            why = "loading opens it at that path"
            yield Finding(source.name, f"an asset outside the folder: {name[:200]}", "unsafe", why, _DO_NOT)
        elif source.folder is not None and not (source.folder / "assets" / Path(name)).is_file():
            yield damaged(source.name, f"the asset {name[:200]} is missing")


def _of_graph(graph: graphs.Graph, where: str, context: Context, *, assets: bool) -> Iterator[Finding]:
    context.budget.check("entries", len(graph.nodes), where)
    for node in graph.nodes:
        place = f"{where} {node.scope}/{node.name}" if node.scope else f"{where} {node.name}"
        if node.op in FORBIDDEN:
            if node.op.startswith("CacheDataset") and "" in graphs.constants(graph.origins(node, 1)):
                continue  # a cache without a file name lies in memory
            yield Finding(place, f"the operation {node.op}", "unsafe", FORBIDDEN[node.op], _DO_NOT)
        elif node.op in NAMED_FILES:
            yield from _of_file_name(graph, node, place, assets=assets)
        elif node.op in NAMED_IN_ATTRIBUTES:
            yield from _of_attributes(node, place)
        elif node.op not in known() and node.op not in graph.functions:
            why = "it is none of TensorFlow's: a library of native code has to be loaded for it"
            yield Finding(place, f"the custom operation {node.op}", "suspicious", why, "ask its author what it does")


def _of_file_name(graph: graphs.Graph, node: graphs.Node, place: str, *, assets: bool) -> Iterator[Finding]:
    origins = graph.origins(node, NAMED_FILES[node.op])
    named = [text for text in graphs.constants(origins) if leaves_folder(text) or _ADDRESS in text]
    table = node.op.startswith("InitializeTable")
    if named:
        what, why = f"{node.op} of {named[0][:200]}", "it opens the path that the file names"
        yield Finding(place, what, "unsafe", why, _DO_NOT)
    elif graphs.ARGUMENT not in origins or (table and not assets):
        what, why = f"{node.op} of a name that the graph makes", "only the loader should say which file is opened"
        yield Finding(place, what, "unsafe", why, _DO_NOT)
    elif table and origins != {graphs.ARGUMENT}:
        what, why = f"{node.op} of a name that the graph has a part in", "a vocabulary lies among the assets"
        yield Finding(place, what, "unsafe", why, _DO_NOT)


def _of_attributes(node: graphs.Node, place: str) -> Iterator[Finding]:
    for text in (one.decode("utf-8", "replace") for one in node.texts):
        if text.startswith("bytes://") or ("://" not in text and not text.startswith("/")):
            continue
        yield Finding(place, f"{node.op} to {text[:200]}", "unsafe", "it opens what its attribute names", _DO_NOT)
