"""SavedModel, laid out as TensorFlow Serving reads it: ``NUMBER/saved_model.pb``, and a ``models.config`` beside it."""

from pathlib import Path

from modelkeep.exporters.built import Built
from modelkeep.exporters.options import Options
from modelkeep.exporters.tracing import save

NUMBER = "1"
"""The folder of the model in an artifact; TensorFlow Serving takes it for the version."""


def write(built: Built, out: Path, options: Options) -> None:
    """Make the folder."""
    out.mkdir()
    save(built, out / NUMBER)
    (out / "models.config").write_text(
        f'model_config_list {{\n  config {{\n    name: "{options.name}"\n    base_path: "/models/{options.name}"\n'
        '    model_platform: "tensorflow"\n  }\n}\n',
        encoding="utf-8",
    )
