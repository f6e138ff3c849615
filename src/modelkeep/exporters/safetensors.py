"""``.safetensors``: the weights by name, with where they come from and the signature in the header."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import deserialize, safe_open
from safetensors.numpy import save_file

from modelkeep.errors import UnsupportedState
from modelkeep.exporters.source import Source, compare
from modelkeep.snapshot.dtypes import logical_name

Array = NDArray[Any]

# what the library writes, by numpy's name; the second row it writes and its numpy side does not read
_DTYPES = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "bfloat16", "complex64",
}  # fmt: skip
_FLOAT8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz"}
_FLOAT8 |= {"F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu"}


def write(source: Source, path: Path) -> None:
    """Write one file with all weights. Raises UnsupportedState for a dtype that the format has not."""
    save(source.tensors, path, source.labels())


def check(source: Source, path: Path) -> None:
    """Read it with safetensors, and compare bit for bit. Raises NotExact."""
    compare(source.tensors, load(path), path.name)


def save(tensors: Mapping[str, Array], path: Path, labels: Mapping[str, str]) -> None:
    """Write tensors to one file. Raises UnsupportedState."""
    for name, array in tensors.items():
        if (dtype := logical_name(array)) not in _DTYPES | set(_FLOAT8.values()):
            raise UnsupportedState(
                f"{name} is {dtype}, which safetensors has no name for; a version keeps it, and .keras holds it"
            )
    # the library takes the memory of an array as it lies there
    save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, path, metadata=dict(labels))


def load(path: Path) -> dict[str, Array]:
    """The tensors of a file, by the library."""
    with safe_open(path, framework="np") as file:
        names = list(file.keys())
        plain = [name for name in names if file.get_slice(name).get_dtype() not in _FLOAT8]
        found = {name: file.get_tensor(name) for name in plain}
    if len(plain) < len(names):
        for name, view in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
            if name not in found:
                dtype = np.dtype(getattr(ml_dtypes, _FLOAT8[view["dtype"]]))
                found[name] = np.frombuffer(view["data"], dtype).reshape(view["shape"])
    return found
