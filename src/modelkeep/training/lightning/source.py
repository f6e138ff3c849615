"""Where Lightning asks for the training data."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource


class Source(_DataLoaderSource):
    """A source of Lightning whose loaders go through ``wrap``."""

    def __init__(self, source: _DataLoaderSource, wrap: Callable[[Any], Any]) -> None:
        super().__init__(source.instance, source.name)
        self._wrap = wrap

    def dataloader(self) -> Any:
        """What the module, the data module or the caller gives."""
        return self._wrap(super().dataloader())
