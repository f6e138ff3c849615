"""``.pt2``, by `torch.export`: what torch, and AOTInductor and ExecuTorch behind it, run; with a free batch."""

from pathlib import Path

import torch

from modelkeep.exporters.built import Built
from modelkeep.exporters.options import Options
from modelkeep.exporters.torch_program import traced


def write(built: Built, out: Path, options: Options) -> None:  # noqa: ARG001  it has none
    """Write what ``torch.export.load`` reads. Raises UsageError for text, or where the batch cannot be free."""
    torch.export.save(traced(built), str(out))
