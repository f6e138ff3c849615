"""The tensors that a transfer takes from, under names that can be compared with those of a Keras model."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.errors import UsageError
from modelkeep.frameworks.mismatch import Spec
from modelkeep.snapshot.dtypes import numpy_dtype

Array = NDArray[Any]
Rename = Mapping[str, str] | Callable[[str], str | None]

_RECURRENT = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)_l(\d+)(_reverse)?")
_SEED = re.compile(r"(.*/)?seed_generator(_\d+)?(_state)?(/.*)?")
_TF_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a source. ``path`` is its name with ``/`` between the parts; ``renamed``: by the caller."""

    name: str
    path: str
    spec: Spec
    tensor: Any
    renamed: bool = False

    def read(self) -> Array:
        """Its values; raises what reading a foreign file raises."""
        array = self.tensor if isinstance(self.tensor, np.ndarray) else self.tensor.read()
        return np.asarray(array)


def pieces(source: Mapping[str, Any], rename: Rename | None) -> list[Piece]:
    """The tensors of a source, renamed; nothing is read yet. Seed generators are left out.

    Raises:
        UsageError: something in it is no array, or two tensors have the same name once they are renamed.

    >>> [piece.path for piece in pieces({"bert.pooler.weight": np.ones((2, 2))}, {"bert": ""})]
    ['pooler/weight']
    """
    if not isinstance(source, Mapping):
        raise UsageError(f"a source is a mapping of names to arrays, not {type(source).__name__}")
    plain = {name: _plain_path(name) for name in source}
    paths = _without_single_numbers(plain)
    found: dict[str, Piece] = {}
    for name, tensor in source.items():
        path, renamed = _renamed(name, paths[name], rename)
        if path is None or _SEED.fullmatch(path):
            continue
        if path in found:
            raise UsageError(
                f"rename: {found[path].name!r} and {name!r} are both called {path!r} now; give each a name of its own"
            )
        found[path] = Piece(name, path, _spec(name, tensor), tensor, renamed)
    return list(found.values())


def dropped(source: Mapping[str, Any], taken: list[Piece]) -> list[str]:
    """Names that a callable ``rename`` answered with None: they stay unused."""
    names = {piece.name for piece in taken}
    return [name for name in source if name not in names and not _SEED.fullmatch(_plain_path(name))]


def _plain_path(name: str) -> str:
    """``layer1.0.weight`` is ``layer1/0/weight``; ``layers/dense/vars/0`` of Keras is ``dense/vars/0``.

    >>> _plain_path("model_state/lstm.weight_ih_l0")
    'model_state/lstm/weight_ih_l0'
    """
    if "/" not in name:
        return name.replace(".", "/")
    path = name.removesuffix(_TF_SUFFIX)
    parts = path.split("/")
    if len(parts) > 1 and parts[-2] in ("vars", "_vars"):
        parts = [part for part in parts[:-2] if part != "layers"] + ["vars", parts[-1]]
    parts[-1] = re.sub(r":0$", "", parts[-1]).replace(".", "/")  # a state dict within a checkpoint
    return "/".join(parts)


def _without_single_numbers(paths: Mapping[str, str]) -> dict[str, str]:
    """``lstm/weight_ih_l0`` is ``lstm/weight_ih`` in a module of one layer, else ``lstm/l0/weight_ih``."""
    numbers: dict[str, set[str]] = {}
    for path in paths.values():
        parent, _, last = path.rpartition("/")
        if match := _RECURRENT.fullmatch(last):
            numbers.setdefault(parent, set()).add(match[2])
    result = {}
    for name, path in paths.items():
        parent, slash, last = path.rpartition("/")
        if match := _RECURRENT.fullmatch(last):
            level = f"l{match[2]}/" if len(numbers[parent]) > 1 else ""
            path = f"{parent}{slash}{level}{match[1]}{match[3] or ''}"
        result[name] = path
    return result


def _renamed(name: str, path: str, rename: Rename | None) -> tuple[str | None, bool]:
    if rename is None:
        return path, False
    if callable(rename):
        new = rename(name)
        if new is not None and not isinstance(new, str):
            raise UsageError(f"rename({name!r}) gave {type(new).__name__}; a name, or None to leave it out, is wanted")
        return (path, False) if new == name else (None if new is None else _plain_path(new), True)
    for old in sorted(rename, key=len, reverse=True):  # the longest prefix says most
        prefix, target = _plain_path(old).strip("/"), _plain_path(rename[old]).strip("/")
        if path == prefix or path.startswith(f"{prefix}/"):
            return f"{target}{path[len(prefix) :]}".strip("/"), True
    return path, False


def _spec(name: str, tensor: Any) -> Spec:
    if isinstance(tensor, np.ndarray | np.generic):
        return Spec(tensor.dtype, tensor.shape)
    if not all(hasattr(tensor, attribute) for attribute in ("dtype", "shape", "read")):
        raise UsageError(
            f"source[{name!r}] is {type(tensor).__name__}; an array is wanted (of a torch tensor: tensor.numpy())"
        )
    dtype = numpy_dtype(tensor.dtype) if isinstance(tensor.dtype, str) else np.dtype(tensor.dtype)
    return Spec(dtype, tuple(tensor.shape))
