"""JSON documents: Keras configurations, Hugging Face configurations, indexes of sharded weights."""

from collections.abc import Iterator
from typing import Any

from modelkeep.scan import keras_config
from modelkeep.scan.findings import Finding, damaged
from modelkeep.scan.source import Context, Source, leaves_folder
from modelkeep.scan.strict_json import Parsed, parse

_PUT_RIGHT = "write it anew with the library that it is for"


def findings(source: Source, context: Context) -> list[Finding]:
    """Findings of one JSON file. Raises LimitExceeded when it is larger than the budget."""
    context.budget.check("text", source.size, source.name)
    try:
        parsed = parse(source.read(0, source.size), source.name, context)
    except ValueError as error:
        if source.suffix != ".json":
            return []  # a text that begins with a bracket: lines of JSON, a template, a page
        return [damaged(source.name, f"it is not JSON ({str(error)[:100]})")]
    return [*_of_duplicates(parsed, source), *of_value(parsed.value, source.name, context)]


def _of_duplicates(parsed: Parsed, source: Source) -> Iterator[Finding]:
    if parsed.duplicates:
        names = ", ".join(sorted(set(parsed.duplicates))[:5])
        what, why = f"names that stand twice in one object: {names}", "readers differ in which of the two they take"
        yield Finding(source.name, what, "suspicious", why, _PUT_RIGHT)


def of_value(value: Any, where: str, context: Context) -> Iterator[Finding]:
    """Findings of a JSON value, by what it is."""
    if keras_config.is_config(value):
        yield from keras_config.findings(value, where, context)
    if isinstance(value, dict):
        yield from _of_hugging_face(value, where)


def _of_hugging_face(value: dict[str, Any], where: str) -> Iterator[Finding]:
    if "auto_map" in value:
        why = "transformers imports the Python that it names, when trust_remote_code is set"
        yield Finding(where, "auto_map", "unsafe", why, "load it with trust_remote_code=False, or read that code first")
    shards = value.get("weight_map")
    if not isinstance(shards, dict):
        return
    named: list[str] = []
    for one in shards.values():
        named.extend(one if isinstance(one, list) else [one])
    for name in dict.fromkeys(str(one) for one in named):
        if leaves_folder(name):
            why = "loading reads the file at that path"
            yield Finding(where, f"a shard outside the folder: {name[:200]}", "unsafe", why, _PUT_RIGHT)
