"""What every importer gives: tensors by name, each read when it is asked for, and what the file says beside them."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, UnknownFormat
from modelkeep.importers.source import Source
from modelkeep.snapshot.dtypes import numpy_dtype
from modelkeep.values import Json

_MAX_RANK = 64
_MAX_AXIS = 1 << 62


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of a file. ``dtype`` is the logical name that records use, ``nbytes`` what `read` will allocate."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    _read: Callable[[], NDArray[Any]] = field(repr=False)

    def read(self) -> NDArray[Any]:
        """The values: a new little-endian array in C order, of exactly ``dtype`` and ``shape``.

        Raises:
            Damaged: the bytes are not what the file promised when it was opened.
        """
        return self._read()


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of one file or folder, in the order in which it holds them.

    ``metadata`` holds what the format says beside tensors: texts as they stand there (``"config.json"``,
    ``"model_config"``), never acted upon. Its entry ``"optimizer"`` is the prefix of the names that belong to an
    optimizer, ``""`` where the file has none or does not tell. ``assets`` are the files that a model has beside its
    tensors (vocabularies), by their path in the model. ``tree`` reads all of it as the containers that it lies in, with
    its plain values, where the format has such (torch); else it is None.
    """

    format: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Json]
    assets: Mapping[str, Source] = field(default_factory=dict)
    tree: Callable[[], Any] | None = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def model(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors without those of the optimizer."""
        prefix = str(self.metadata.get("optimizer", ""))
        return (item for item in self.tensors.items() if not prefix or not item[0].startswith(prefix))


class Catalogue:
    """Tensors as a file declares them, each counted against the budget before the next is looked at."""

    def __init__(self, where: str, budget: Budget) -> None:
        self.where, self.budget = where, budget
        self._tensors: dict[str, Tensor] = {}
        self._nbytes = self._values = 0

    def add(
        self, name: str, dtype: str, shape: tuple[int, ...], read: Callable[[], NDArray[Any]], *, span: int = 0
    ) -> None:
        """Take note of a tensor; ``span``: bytes that reading it takes for a moment, where that is more than its own.

        Raises:
            LimitExceeded: it is more than the budget allows.
            Damaged: a name that is there already, or a shape that no array has.
            UnknownFormat: a dtype that is not known.
        """
        nbytes = array_bytes(dtype, shape, f"{self.where}: {name!r:.200}")
        if name in self._tensors:
            raise Damaged(f"{self.where}: the name {name!r:.200} stands there twice", self.where)
        self._nbytes += nbytes
        self._values += math.prod(shape)
        self.budget.check("entries", len(self._tensors) + 1, self.where)
        self.budget.check("parameters", self._values, f"{self.where}: up to {name!r:.200}")
        self.budget.check("nbytes", max(self._nbytes, span), f"{self.where}: up to {name!r:.200}")
        self._tensors[name] = Tensor(dtype, shape, nbytes, read)

    def add_raw(self, name: str, dtype: str, shape: tuple[int, ...], place: tuple[Source, int]) -> None:
        """Take note of a tensor whose bytes lie as they are, little-endian, at an offset of a source."""
        self.add(name, dtype, shape, partial(read_raw, *place, dtype, shape))

    def names(self) -> list[str]:
        """The names so far, in the order in which they came."""
        return list(self._tensors)

    def weights(self, form: str, metadata: Mapping[str, Json]) -> Weights:
        """All of it as the frozen value; a read-only view of the tensors."""
        return Weights(form, MappingProxyType(self._tensors), MappingProxyType({"optimizer": "", **metadata}))


def array_bytes(dtype: str, shape: tuple[int, ...], where: str) -> int:
    """The bytes of an array, once ``shape`` is one that an array can have.

    Raises:
        Damaged: negative or huge axes, or too many of them.
        UnknownFormat: a dtype that is not known.

    >>> array_bytes("bfloat16", (2, 3), "w")
    12
    """
    if len(shape) > _MAX_RANK:
        raise UnknownFormat(f"{where} has {len(shape)} axes; arrays here have at most {_MAX_RANK}")
    itemsize = numpy_dtype(dtype).itemsize
    # axes of no length do not excuse the others: numpy computes the product without them
    if any(axis < 0 for axis in shape) or math.prod(axis or 1 for axis in shape) * itemsize >= _MAX_AXIS:
        raise Damaged(f"{where} has the shape {shape!s:.200}, which no array has", where)
    return math.prod(shape) * itemsize


def read_raw(source: Source, offset: int, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array whose little-endian bytes lie at ``offset``; the source's size is checked before it is allocated.

    Raises:
        Damaged: the source ends before it.
    """
    nbytes = array_bytes(dtype, shape, source.name)
    if offset < 0 or offset + nbytes > source.size:
        raise Damaged(f"{source.name}: an array of {nbytes:,} bytes at {offset:,} lies past its end", source.name)
    array = np.empty(shape, numpy_dtype(dtype))
    if nbytes:
        source.read_into(offset, array.reshape(-1).view(np.uint8).data)
    return array
