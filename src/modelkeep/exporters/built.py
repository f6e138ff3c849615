"""A model that a writer turns into a graph, with what it takes, gives, and was shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from modelkeep.model.signature import Signature


@dataclass(frozen=True)
class Built:
    """A model under the framework of this process, with its weights."""

    kind: Literal["keras", "torch", "jax"]
    model: Any
    """A Keras model; a torch module; of jax a pair, its parameters and a function of these and inputs."""
    signature: Signature
    examples: Any
    """Inputs as arrays, nested as the model takes them; first axis the rows."""
    parts: "Mapping[str, Built]" = field(default_factory=dict)
    """What further signatures compute, by their names."""
