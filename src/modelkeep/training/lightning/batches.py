"""The training data as Lightning asks for them, from the batch at which the training is."""

from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource
from torch.utils.data import DataLoader

from modelkeep.training.torch_batches import Passes

Place = Callable[[], tuple[int, int]]
"""The epoch and the batch of it that is next."""


class Batches:
    """A ``DataLoader`` whose passes begin where ``place`` says; for all else it is the loader."""

    def __init__(self, loader: "DataLoader[Any]", seed: int, place: Place) -> None:
        self._loader, self._place = loader, place
        self.passes = Passes(loader, seed)

    def __iter__(self) -> Iterator[Any]:
        epoch, batch = self._place()
        yield from self.passes.batches(epoch, batch, None)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class Source(_DataLoaderSource):
    """Where Lightning asks for its loaders; a ``DataLoader`` is given as `Batches`, anything else as it is."""

    def __init__(self, source: _DataLoaderSource, wrap: Callable[[Any], Any]) -> None:
        super().__init__(source.instance, source.name)
        self._wrap = wrap

    def dataloader(self) -> Any:
        """What the module, the data module or the caller gives."""
        return self._wrap(super().dataloader())
