"""A model as torch has it: a program traced by `torch.export`, with a free batch."""

from collections.abc import Mapping
from typing import Any

import torch

from modelkeep.errors import UsageError
from modelkeep.exporters.built import Built
from modelkeep.model.signature import flat, named, nested

_MOST = 1 << 20
"""The largest batch: torch wants a bound."""


class _Serving(torch.nn.Module):
    """A model of inputs and outputs by name."""

    def __init__(self, built: Built) -> None:
        super().__init__()
        self.model, self._built = built.model, built

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        signature = self._built.signature
        given = nested(signature.inputs, inputs)
        if self._built.kind == "keras":
            found = self.model(given, training=False)
        elif isinstance(self._built.examples, tuple):
            found = self.model(*given)
        else:
            found = self.model(**given) if isinstance(given, dict) else self.model(given)
        return flat(signature.outputs, found)


def traced(built: Built) -> Any:
    """The program, of one dict of tensors to one. Raises UsageError for text, which torch has not."""
    infos = named(built.signature.inputs)
    texts = [name for name, info in infos.items() if info.dtype == "string"]
    if texts:
        raise UsageError(f"torch has no text, and {', '.join(texts)} is; savedmodel keeps steps on text inside")
    examples = flat(built.signature.inputs, built.examples)
    tensors = {name: torch.from_numpy(examples[name].astype(info.dtype)) for name, info in infos.items()}
    if any(one.ndim and one.shape[0] < 2 for one in tensors.values()):  # torch would take 1 for a constant
        tensors = {name: torch.cat([one, one]) if one.ndim else one for name, one in tensors.items()}
    batch = torch.export.Dim("batch", min=1, max=_MOST)
    free = torch.export.Dim.AUTO
    shapes = {
        name: {at: free if at else batch for at, axis in enumerate(info.shape) if axis is None}
        for name, info in infos.items()
    }
    with torch.no_grad():
        return torch.export.export(_Serving(built).eval(), (tensors,), dynamic_shapes=(shapes,))
