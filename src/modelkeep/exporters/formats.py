"""Which formats there are. Light: the command names them in its help."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from modelkeep.errors import UsageError


@dataclass(frozen=True, slots=True)
class Format:
    """A format: its module, and what its files end with ("" for a folder)."""

    module: str
    suffix: str
    about: str
    packages: tuple[str, ...] = ()
    """What a graph is written with, as modules."""
    extra: str = ""
    """What brings them: ``modelkeep[EXTRA]``."""
    backend: str = "tensorflow"
    """The backend of Keras that a graph is written from."""

    @property
    def path(self) -> str:
        """The module, as it is imported."""
        return self.module if "." in self.module else f"modelkeep.exporters.{self.module}"

    @property
    def is_graph(self) -> bool:
        """Whether it is run by a runtime, and not read by a framework into a model that is there."""
        return bool(self.packages)


FORMATS: Mapping[str, Format] = {
    "keras": Format("keras", ".keras", "the whole Keras model, for keras.models.load_model"),
    "weights-h5": Format("keras_weights", ".weights.h5", "the weights of a Keras model, for load_weights"),
    "safetensors": Format("safetensors", ".safetensors", "the weights by name"),
    "huggingface": Format("huggingface", "", "a folder: safetensors (with an index if large), config.json, the card"),
    "torch": Format("torch", ".pt", "the weights as a state dict, for torch.load(weights_only=True)"),
    "npz": Format("npz", ".npz", "the weights by name, for numpy.load"),
    "savedmodel": Format(
        "savedmodel",
        "",
        "a folder for TensorFlow Serving: a SavedModel, and models.config",
        ("tensorflow", "keras"),
        "tensorflow",
    ),
    "litert": Format(
        "litert",
        ".tflite",
        "a file for LiteRT, on phones",
        ("tensorflow", "keras", "ai_edge_litert"),
        "export",
    ),
    "onnx": Format(
        "onnx",
        ".onnx",
        "a file for onnxruntime and many others",
        ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime"),
        "export",
    ),
    "tfjs": Format("tfjs", "", "a folder for TensorFlow.js, with a page", ("tensorflow", "keras"), "export"),
    "stablehlo": Format("stablehlo", ".stablehlo", "a file for jax.export.deserialize", ("jax", "keras"), "jax", "jax"),
    "pt2": Format("pt2", ".pt2", "a file for torch.export.load", ("torch", "keras"), "torch", "torch"),
}
"""By the name that a person gives."""


def check_format(name: str) -> Format:
    """The format of that name. Raises UsageError with those that there are."""
    if name not in FORMATS:
        near = get_close_matches(name, FORMATS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no format {name!r:.60} to export to, but {', '.join(FORMATS)}{meant}")
    return FORMATS[name]
