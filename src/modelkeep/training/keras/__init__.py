"""Exact resume for Keras on all three backends: ``fit`` in place of ``Model.fit``, or the ``Checkpoint`` callback.

``progress`` says what one moment of a training holds; ``data`` opens the input at any position and ``feed`` hands it
to Keras; ``loop`` captures and puts back; ``fit`` and ``checkpoint`` are what a user calls; ``exactness`` finds what
could not be resumed before training begins.
"""

from modelkeep.training.keras.checkpoint import Checkpoint
from modelkeep.training.keras.fit import fit
from modelkeep.training.keras.replay import Replay

__all__ = ["Checkpoint", "Replay", "fit"]
