"""Foreign files in: the tensors of other formats by name, each read when it is asked for. Nothing in a file is run.

One module per format, none knows another except through `open_weights`.
"""

from modelkeep.importers.opening import open_weights
from modelkeep.importers.weights import Tensor, Weights

__all__ = ["Tensor", "Weights", "open_weights"]
