"""``.pt``: the weights as a state dict, as ``torch.save`` writes it and ``torch.load(weights_only=True)`` reads it."""

from collections import OrderedDict
from pathlib import Path

import torch

from modelkeep.exporters.source import Source, compare
from modelkeep.frameworks.torch_tensors import from_numpy, to_numpy


def write(source: Source, path: Path) -> None:
    """Write a state dict; of a torch module exactly its own. Raises UnsupportedState for a dtype that torch has not."""
    torch.save(OrderedDict((name, from_numpy(array)) for name, array in source.tensors.items()), path)


def check(source: Source, path: Path) -> None:
    """Read it with torch, and compare bit for bit. Raises NotExact."""
    found = torch.load(path, weights_only=True)
    compare(source.tensors, {name: to_numpy(tensor) for name, tensor in found.items()}, path.name)
