"""TensorFlow.js in Node, on its WebAssembly backend."""

from pathlib import Path

from modelkeep.runtime import tfjs


def load(path: Path, *, threads: int | None = None) -> tfjs.Session:
    """Open the folder of a graph model, on the backend wasm. Raises Damaged, UsageError."""
    return tfjs.load(path, threads=threads).on("wasm")
