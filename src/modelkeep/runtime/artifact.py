"""The files of an export, and its proof, out of the keep."""

from pathlib import Path
from typing import Any

from modelkeep.errors import Damaged
from modelkeep.store import Export, Store

WHOLE = ""
"""The name of the file of an artifact that is one file."""
BETWEEN = "|"
"""Between the folders and the file of a name."""


def proof_of(store: Store, export: Export) -> dict[str, Any]:
    """The proof of an export: tolerance, size, and for each runtime its version and what differed. Raises Damaged."""
    structure = store.snapshot(export.snapshot_id).structure
    proof = structure.get("proof") if isinstance(structure, dict) else None
    if not isinstance(proof, dict):
        raise Damaged(f"snapshot {export.snapshot_id[:8]} is no export: it has no proof")
    return proof


def restore(store: Store, export: Export, path: Path) -> None:
    """Write the files of an export, every byte checked: one file to ``path``, several into that folder.

    Raises:
        Damaged: bytes are not those that were written.
        OSError: they cannot be written.
    """
    files = store.load(store.snapshot(export.snapshot_id), select=["files/**"])["files"]
    if list(files) == [WHOLE]:
        path.write_bytes(memoryview(files[WHOLE]))
        return
    for name, data in files.items():
        place = path.joinpath(*_parts(name))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(memoryview(data))


def _parts(name: str) -> list[str]:
    """The folders and the file of a name; nothing that leads out of the folder."""
    parts = name.split(BETWEEN)
    if any(part in {"", ".", ".."} or "/" in part or "\\" in part or "\0" in part for part in parts):
        raise Damaged(f"an export has a file of the name {name!r:.100}")
    return parts
