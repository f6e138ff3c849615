"""Exact resume for PyTorch Lightning: the ``Checkpoint`` callback.

``state`` says what one moment of a training holds, and ``checkpoint`` is what a user passes to ``Trainer``.
"""

from modelkeep.training.lightning.checkpoint import Checkpoint

__all__ = ["Checkpoint"]
