"""``.npz``: the weights by name, as numpy reads them."""

import zipfile
from pathlib import Path

import numpy as np

from modelkeep.errors import UnsupportedState
from modelkeep.exporters.source import Source, compare


def write(source: Source, path: Path) -> None:
    """Write an uncompressed ``.npz``. Raises UnsupportedState for bfloat16 and its like, which numpy does not name."""
    for name, array in source.tensors.items():
        if array.dtype.kind not in "?biufc":
            raise UnsupportedState(f"{name} is {array.dtype}, which numpy cannot say in a file; export to safetensors")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in source.tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def check(source: Source, path: Path) -> None:
    """Read it with numpy, and compare bit for bit. Raises NotExact."""
    with np.load(path, allow_pickle=False) as found:
        compare(source.tensors, {name: found[name] for name in found.files}, path.name)
