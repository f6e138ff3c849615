"""Tensors by the names that Keras' own files give them (``layers/dense/vars/0``), put into a live model.

Which name belongs to which layer is Keras' own walk (``keras.src.saving.saving_lib``, whose order of layers and
``load_own_variables`` a class may change); it is given these arrays in place of a file.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
from keras.src.saving import saving_lib
from numpy.typing import NDArray

from modelkeep.errors import StateMismatch
from modelkeep.frameworks import keras_arrays
from modelkeep.frameworks.keras import settle
from modelkeep.frameworks.mismatch import LINES

Array = NDArray[Any]


def load_named(parts: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    """Put ``tensors`` into built Keras objects, each of ``parts`` by the prefix of its names (the model has ``""``).

    Where no name is one of an optimizer, optimizers stay as they are.

    Raises:
        StateMismatch: a layer wants other arrays than there are, or arrays are left over; nothing was changed.

    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> load_named({"": model}, {"layers/dense/vars/0": np.ones((3, 2), "f4"), "layers/dense/vars/1": np.ones(2, "f4")})
    >>> model.layers[0].bias.numpy().tolist()
    [1.0, 1.0]
    """
    variables = {id(one): one for part in parts.values() for one in _variables(part)}
    before = {key: keras_arrays.read(one, copy=True) for key, one in variables.items()}
    problems = _walk(parts, tensors)
    if problems:
        for key, one in variables.items():
            keras_arrays.write(one, before[key])
        lines = "".join(f"\n  {problem!s:.300}" for problem in problems[:LINES])
        raise StateMismatch(f"the file does not fit this model, and nothing was changed; build it as it was:{lines}")
    for part in parts.values():
        if isinstance(part, keras.layers.Layer):
            settle(part)


def _walk(parts: Mapping[str, Any], tensors: Mapping[str, Array]) -> list[str]:
    """Let Keras load, and say what it could not."""
    store = _Arrays(tensors)
    failed: set[int] = set()
    errors: dict[int, tuple[Any, Exception]] = {}
    has_optimizer = any(name.startswith("optimizer/") for name in tensors)
    optimizers = [one for part in parts.values() for one in (part, getattr(part, "optimizer", None))]
    skipped = [one for one in optimizers if isinstance(one, keras.optimizers.Optimizer) and not has_optimizer]
    visited = {id(one) for one in skipped}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # an optimizer of another size would be passed over with one
        for prefix, part in sorted(parts.items()):
            saving_lib._load_state(
                part,
                weights_store=store,
                assets_store=None,
                inner_path=prefix,
                visited_saveables=visited,
                failed_saveables=failed,
                error_msgs=errors,
            )
    problems = [f"{getattr(part, 'name', type(part).__name__)}: {error}" for part, error in errors.values()]
    return problems + [f"{name}: not wanted, found {array.dtype} {list(array.shape)}" for name, array in store.unused()]


def _variables(part: Any) -> list[Any]:
    optimizer = getattr(part, "optimizer", None)
    return [*part.variables, *(optimizer.variables if optimizer is not None else [])]


class _Arrays(saving_lib.H5IOStore):  # Keras asks for one of its own classes
    """What Keras reads weights from: ``get`` gives the arrays of one layer by their number."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._left = dict(tensors)
        self._layers: dict[str, dict[str, str]] = {}
        for name in tensors:
            layer, _, number = f"/{name}".rpartition("/vars/")
            self._layers.setdefault(layer.strip("/"), {})[number] = name
        self._tensors = tensors

    def get(self, path: str) -> "_Layer":
        """The arrays of a layer; none where the file has no such layer."""
        names = self._layers.get(path, {})
        for name in names.values():
            self._left.pop(name, None)
        return _Layer({number: self._tensors[name] for number, name in names.items()})

    def has_path(self, path: str) -> bool:
        """Whether the file has a layer there, or one within."""
        return any(f"{layer}/".startswith(f"{path}/") for layer in self._layers)

    def unused(self) -> list[tuple[str, Array]]:
        """Names that no layer has asked for."""
        return list(self._left.items())

    def __bool__(self) -> bool:
        return True


class _Layer(Mapping[str, Array]):
    """The arrays of one layer."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays

    def __getitem__(self, number: str) -> Array:
        return self._arrays[number]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)
