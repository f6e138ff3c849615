"""``.pt2``, by `torch.export`: what torch, and AOTInductor and ExecuTorch behind it, run; with a free batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelkeep.errors import UsageError
from modelkeep.exporters.built import Built
from modelkeep.exporters.options import Options
from modelkeep.model.signature import flat, named, nested

_MOST = 1 << 20
"""The largest batch: torch wants a bound."""


class _Serving(torch.nn.Module):
    def __init__(self, built: Built) -> None:
        super().__init__()
        self.model, self._signature = built.model, built.signature

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        given = nested(self._signature.inputs, inputs)
        return flat(self._signature.outputs, self.model(given, training=False))


def write(built: Built, out: Path, options: Options) -> None:  # noqa: ARG001  it has none
    """Write what ``torch.export.load`` reads. Raises UsageError for text, or where the batch cannot be free."""
    infos = named(built.signature.inputs)
    texts = [name for name, info in infos.items() if info.dtype == "string"]
    if texts:
        raise UsageError(f"torch has no text, and {', '.join(texts)} is; savedmodel keeps steps on text inside")
    examples = flat(built.signature.inputs, built.examples)
    tensors = {name: torch.from_numpy(examples[name].astype(info.dtype)) for name, info in infos.items()}
    if any(one.shape[0] < 2 for one in tensors.values()):
        tensors = {name: torch.cat([one, one]) for name, one in tensors.items()}
    batch = torch.export.Dim("batch", min=1, max=_MOST)
    free = torch.export.Dim.AUTO
    shapes = {
        name: {at: free if at else batch for at, axis in enumerate(info.shape) if axis is None}
        for name, info in infos.items()
    }
    with torch.no_grad():
        program = torch.export.export(_Serving(built).eval(), (tensors,), dynamic_shapes=(shapes,))
    torch.export.save(program, str(out))
