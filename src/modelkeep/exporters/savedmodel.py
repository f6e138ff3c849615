"""SavedModel, from a Keras model on TensorFlow."""

from pathlib import Path

from modelkeep.exporters.built import Built
from modelkeep.exporters.options import Options
from modelkeep.exporters.serving import lay_out
from modelkeep.exporters.tracing import save


def write(built: Built, out: Path, options: Options) -> None:
    """Make the folder."""
    save(built, lay_out(out, options.name))
