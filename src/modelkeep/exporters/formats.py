"""Which formats there are. Light: the command names them in its help."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from modelkeep.errors import UsageError


@dataclass(frozen=True, slots=True)
class Route:
    """One way to a graph: the framework under which the model is opened, and the module that writes it."""

    framework: str
    """``"tensorflow"``, ``"jax"`` or ``"torch"``: of Keras its backend."""
    module: str
    packages: tuple[str, ...]
    """What it is written and proven with, as modules."""
    extra: str
    """What brings them: ``modelkeep[EXTRA]``."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format: what its files end with ("" for a folder), and its module or, for a graph, its routes."""

    suffix: str
    about: str
    module: str = ""
    routes: tuple[Route, ...] = ()
    """The first takes Keras models of every backend, the others those that their own framework has trained."""

    @property
    def is_graph(self) -> bool:
        """Whether it is run by a runtime, and not read by a framework into a model that is there."""
        return bool(self.routes)


def _tensorflow(module: str, *packages: str) -> Route:
    return Route("tensorflow", module, ("tensorflow", "keras", *packages), "export")


FORMATS: Mapping[str, Format] = {
    "keras": Format(".keras", "the whole Keras model, for keras.models.load_model", "keras"),
    "weights-h5": Format(".weights.h5", "the weights of a Keras model, for load_weights", "keras_weights"),
    "safetensors": Format(".safetensors", "the weights by name", "safetensors"),
    "huggingface": Format("", "a folder: safetensors (with an index if large), config.json, the card", "huggingface"),
    "torch": Format(".pt", "the weights as a state dict, for torch.load(weights_only=True)", "torch"),
    "npz": Format(".npz", "the weights by name, for numpy.load", "npz"),
    "savedmodel": Format(
        "",
        "a folder for TensorFlow Serving: a SavedModel, and models.config",
        routes=(
            _tensorflow("savedmodel"),
            Route("jax", "savedmodel_of_jax", ("jax", "tensorflow"), "jax,tensorflow"),
        ),
    ),
    "litert": Format(".tflite", "a file for LiteRT, on phones", routes=(_tensorflow("litert", "ai_edge_litert"),)),
    "onnx": Format(
        ".onnx",
        "a file for onnxruntime and many others",
        routes=(
            _tensorflow("onnx", "tf2onnx", "onnx", "onnxruntime"),
            Route("torch", "onnx_of_torch", ("torch", "onnxscript", "onnxruntime"), "torch,export"),
        ),
    ),
    "tfjs": Format("", "a folder for TensorFlow.js, with a page", routes=(_tensorflow("tfjs"),)),
    "stablehlo": Format(
        ".stablehlo", "a file for jax.export.deserialize", routes=(Route("jax", "stablehlo", ("jax",), "jax"),)
    ),
    "pt2": Format(".pt2", "a file for torch.export.load", routes=(Route("torch", "pt2", ("torch",), "torch"),)),
}
"""By the name that a person gives."""


def check_format(name: str) -> Format:
    """The format of that name. Raises UsageError with those that there are."""
    if name not in FORMATS:
        near = get_close_matches(name, FORMATS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no format {name!r:.60} to export to, but {', '.join(FORMATS)}{meant}")
    return FORMATS[name]
