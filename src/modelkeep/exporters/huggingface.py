"""A folder as the Hugging Face hub has it: weights (in parts with an index where they are large), config and card."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from modelkeep.exporters import safetensors
from modelkeep.exporters.source import Source, compare

Tensors = dict[str, NDArray[Any]]

PART_BYTES = 5_000_000_000
"""The most bytes of tensors in one file, as the hub has them; a larger tensor stands alone."""


def write(source: Source, path: Path) -> None:
    """Make the folder: ``model.safetensors``, ``config.json`` (the architecture), ``signature.json``, ``README.md``."""
    path.mkdir()
    parts = list(_parts(source.tensors))
    labels = {**source.labels(), "format": "pt" if source.framework == "torch" else "np"}
    names: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = "model.safetensors" if len(parts) == 1 else f"model-{number:05}-of-{len(parts):05}.safetensors"
        safetensors.save(part, path / file, labels)
        names |= dict.fromkeys(part, file)
    if len(parts) > 1:
        total = sum(array.nbytes for array in source.tensors.values())
        _write_json(path / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": names})
    _write_json(path / "config.json", source.architecture)
    if (signature := source.part("signature")) is not None:
        _write_json(path / "signature.json", signature)
    card = source.part("card")
    (path / "README.md").write_text(card if isinstance(card, str) else f"# {source.ref}\n", encoding="utf-8")


def check(source: Source, path: Path) -> None:
    """Read every file with safetensors, and compare bit for bit. Raises NotExact."""
    found: Tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= safetensors.load(file)
    compare(source.tensors, found, path.name)


def _parts(tensors: Mapping[str, NDArray[Any]]) -> Iterator[Tensors]:
    part: Tensors = {}
    for name, array in tensors.items():
        if part and sum(one.nbytes for one in part.values()) + array.nbytes > PART_BYTES:
            yield part
            part = {}
        part[name] = array
    yield part


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
