"""What a loader may use at most, whatever the file in front of it asks for."""

import os
from dataclasses import dataclass, field

from modelkeep.errors import LimitExceeded


def memory_bytes() -> int:
    """The memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, slots=True)
class Budget:
    """Absolute limits, each compared with what a file *declares* before anything of that size is allocated or built.

    >>> Budget(nbytes=100).check("nbytes", 400, "layer dense of model.keras")
    Traceback (most recent call last):
        ...
    modelkeep.errors.LimitExceeded: layer dense of model.keras: 400 bytes of arrays, and the budget has 100; if you \
trust its source, raise it: Budget(nbytes=400)
    """

    nbytes: int = field(default_factory=lambda: memory_bytes() // 2)
    """Bytes of all arrays together; by default half of this machine's memory."""
    parameters: int = 20_000_000_000
    """Values in all weights together."""
    depth: int = 64
    """Containers within containers: of JSON, of layers, of groups."""
    nodes: int = 100_000
    """Layers and other objects that a configuration builds."""
    entries: int = 1_000_000
    """Named tensors, members or objects of one file."""
    text: int = 64 << 20
    """Bytes of JSON or other metadata that are parsed."""
    vocabulary: int = 5_000_000
    """Entries of all vocabularies together."""

    def check(self, what: str, found: int, where: str) -> None:
        """Compare ``found`` with the limit named ``what``. Raises LimitExceeded, naming ``where`` and the way out."""
        limit: int = getattr(self, what)
        if found > limit:
            raise LimitExceeded(
                f"{where}: {found:,} {_WORDS[what]}, and the budget has {limit:,}; if you trust its source, raise it: "
                f"Budget({what}={found})"
            )


_WORDS = {
    "nbytes": "bytes of arrays",
    "parameters": "parameters",
    "depth": "levels of depth",
    "nodes": "layers and objects",
    "entries": "entries",
    "text": "bytes of metadata",
    "vocabulary": "vocabulary entries",
}
