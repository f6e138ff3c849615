"""A Keras model that a writer turns into a graph, with what it takes, gives, and was shown."""

from dataclasses import dataclass
from typing import Any

from modelkeep.model.signature import Signature


@dataclass(frozen=True)
class Built:
    """A model under the backend of this process."""

    model: Any
    signature: Signature
    examples: Any
    """Inputs as arrays, nested as the model takes them; first axis the rows."""
