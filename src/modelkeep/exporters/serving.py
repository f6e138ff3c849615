"""How TensorFlow Serving wants a SavedModel to lie: ``NUMBER/saved_model.pb``, and a ``models.config`` beside it."""

from pathlib import Path

NUMBER = "1"
"""The folder of the model in an artifact; TensorFlow Serving takes it for the version."""
SIGNATURE = "serving_default"


def lay_out(out: Path, name: str) -> Path:
    """Make the folder ``out``; returns the path that the SavedModel is to be written to."""
    out.mkdir()
    (out / "models.config").write_text(
        f'model_config_list {{\n  config {{\n    name: "{name}"\n    base_path: "/models/{name}"\n'
        '    model_platform: "tensorflow"\n  }\n}\n',
        encoding="utf-8",
    )
    return out / NUMBER
