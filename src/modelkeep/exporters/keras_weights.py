"""``.weights.h5``: the weights of a Keras model, for ``load_weights`` of a model of the same architecture."""

from pathlib import Path

from modelkeep.exporters.keras import check_state
from modelkeep.exporters.source import Source


def write(source: Source, path: Path) -> None:
    """Write a ``.weights.h5`` file. Raises UsageError for what is no Keras model."""
    source.build(compiled=False).save_weights(path)  # the state of an optimizer is no weight


def check(source: Source, path: Path) -> None:
    """Load it into a model that has forgotten its weights, and compare. Raises NotExact."""
    model = source.build(compiled=False)
    for variable in model.variables:
        variable.assign(variable * 0)
    model.load_weights(path)
    check_state(source, model, path.name)
