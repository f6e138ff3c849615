"""Keras configurations (in `.keras`, `.h5`, SavedModel and plain JSON): what building from them would do."""

import math
import sys
from collections.abc import Iterator
from typing import Any

from modelkeep.scan.findings import Finding, Severity, beyond
from modelkeep.scan.source import Context, leaves_folder
from modelkeep.scan.strict_json import Node, walk

_PARTS = {
    "layers", "models", "initializers", "regularizers", "constraints", "activations", "losses", "metrics", "optimizers",
    "random", "dtype_policies", "quantizers", "ops", "preprocessing", "applications",
}  # fmt: skip
_PRIVATE = {
    "backend", "trainers", "wrappers", "layers", "models", "engine", "optimizer_v2", "optimizer_v1", "feature_column",
}  # fmt: skip
"""Parts of keras.src, and of the keras of TensorFlow 2, whose classes older files name."""
_OTHERS = {"keras_hub", "keras_nlp", "keras_cv"}
"""Packages of the Keras team which Keras itself imports from, layers and tokenizers alone."""
_RUNS = {
    "Lambda": "it runs Python, given as marshalled bytecode or by a name",
    "__lambda__": "it holds marshalled Python bytecode, which is run",
    "TorchModuleWrapper": "it unpickles a torch module, which runs any code",
    "TFSMLayer": "it loads a SavedModel from a path that the file names",
    "JaxLayer": "it calls a function that the file names",
    "FlaxLayer": "it makes an object of a class that the file names",
}
_GADGETS = {
    "enable_unsafe_deserialization", "get_file", "load_model", "load_weights", "save_model", "save_weights",
    "model_from_json", "deserialize_keras_object", "serialize_keras_object", "register_keras_serializable", "load_img",
    "save_img", "image_dataset_from_directory", "text_dataset_from_directory", "audio_dataset_from_directory",
    "set_backend", "func_load", "func_dump", "model_to_dot", "plot_model", "eval", "exec", "compile", "open",
    "__import__", "getattr", "setattr", "input", "breakpoint", "system", "popen", "import_module", "load", "loads",
    "from_pretrained", "from_preset", "run", "call", "Popen",
}  # fmt: skip
_PATH_KEYS = {"vocabulary", "vocabulary_file", "filepath", "file_path", "filename", "url", "origin", "idf_weights"}
_SIZES = {"units", "filters", "input_dim", "output_dim", "num_heads", "key_dim", "value_dim"}
_DO_NOT = "do not load it; modelkeep loads the weights alone (modelkeep import)"
_CLASS = "pass the class yourself (custom_objects), if you know its code"


def is_config(value: Any) -> bool:
    """Whether a JSON document is a serialised Keras object."""
    return isinstance(value, dict) and isinstance(value.get("class_name"), str) and "config" in value


def findings(value: Any, where: str, context: Context) -> Iterator[Finding]:
    """Findings of one configuration, layer by layer."""
    for node in walk(value, where, context):
        place = f"{where} {node.path}" if node.path else where
        if isinstance(node.value, dict) and isinstance(node.value.get("class_name"), str):
            yield from _of_object(node.value, place, context)
        elif isinstance(node.value, str):
            yield from _of_text(node, place)
        elif isinstance(node.value, int) and node.key in _SIZES and node.value * 4 > context.budget.nbytes:
            yield beyond(place, f"a layer with {node.key} = {node.value:,}", "do not build it")


def _of_object(value: dict[str, Any], place: str, context: Context) -> Iterator[Finding]:
    kind = str(value["class_name"])
    module = value.get("module")
    base = kind.rsplit(">", 1)[-1].rsplit(".", 1)[-1]
    if base in _RUNS:
        yield Finding(place, _named(kind, value), "unsafe", _RUNS[base], _DO_NOT)
    elif kind == "function" and _function_of(value) in _GADGETS:
        yield Finding(place, f"calls the function {_function_of(value)}", "unsafe", "it is no part of a model", _DO_NOT)
    elif isinstance(module, str) and base in _GADGETS:
        yield Finding(place, f"calls {module}.{base}", "unsafe", "it is no part of a model", _DO_NOT)
    elif isinstance(module, str) and not _is_model_module(module, kind):
        yield _of_foreign_class(kind, module, value, place)
    elif module is not None and not isinstance(module, str):
        yield Finding(
            place, f"{kind} of a module that is no text", "suspicious", "no writer of Keras makes it", _DO_NOT
        )
    yield from _of_size(value, place, context)


def _of_foreign_class(kind: str, module: str, value: dict[str, Any], place: str) -> Finding:
    """Of a class that its author registered, as Keras asks for, the lesser finding: the code is not in the file."""
    registered = (
        ">" in str(value.get("registered_name")) and module.split(".", maxsplit=1)[0] not in sys.stdlib_module_names
    )
    why = "the module that the file names is imported (by Keras before 3.9; later ones want the class from you)"
    severity: Severity = "suspicious" if registered else "unsafe"
    return Finding(place, f"{kind} of the module {module}", severity, why, _CLASS)


def _function_of(value: dict[str, Any]) -> str:
    return str(value.get("config")).rsplit(">", 1)[-1].rsplit(".", 1)[-1]


def _named(kind: str, value: dict[str, Any]) -> str:
    config = value.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    return f"a layer of the class {kind}" + (f" ({name})" if isinstance(name, str) else "")


def _is_model_module(module: str, kind: str) -> bool:
    parts = module.split(".")
    if parts[0] == "tensorflow" and parts[1:3] == ["python", "keras"]:
        parts = parts[2:]
    if parts[0] in {"keras", "tf_keras", "keras_core"}:
        inner = parts[2:] if parts[1:2] == ["src"] else parts[1:]
        private = parts[1:2] == ["src"] or "engine" in parts
        return not inner or inner[0] in _PARTS or (private and inner[0] in _PRIVATE)
    if parts[0] in _OTHERS:
        return True
    return module == "builtins" and kind in {"function", "slice", "__tuple__", "tuple", "list", "dict", "set"}


def _of_text(node: Node, place: str) -> Iterator[Finding]:
    text = node.value
    if node.key in _PATH_KEYS and text:
        why = "a layer that is built opens the path or address that the file names"
        yield Finding(place, f"opens {text[:200]}", "unsafe", why, "give the vocabulary itself, as a list")
    elif node.key == "name" and (leaves_folder(text) and (".." in text or text.startswith(("/", "\\", "~")))):
        yield Finding(place, f"the name {text[:200]}", "unsafe", "names of layers become paths when saved", _DO_NOT)
    elif node.key == "function_type" and text in {"lambda", "raw"}:
        yield Finding(place, f"a function of the type {text}", "unsafe", _RUNS["__lambda__"], _DO_NOT)
    elif text[:12].lower().startswith(("http://", "https://", "file://", "ftp://", "gs://", "s3://", "hf://")):
        why = "a configuration needs no address; what reads it may open it"
        yield Finding(place, f"the address {text[:200]}", "suspicious", why, _DO_NOT)


def _of_size(value: dict[str, Any], place: str, context: Context) -> Iterator[Finding]:
    """The weights that the layer would make, as far as its sizes and its input's shape tell."""
    config, build = value.get("config"), value.get("build_config")
    if not isinstance(config, dict):
        return
    shape = build.get("input_shape") if isinstance(build, dict) else None
    last = shape[-1] if isinstance(shape, list) and shape and isinstance(shape[-1], int) else 1
    sizes = [one for key in ("units", "filters", "input_dim", "output_dim") if isinstance(one := config.get(key), int)]
    count = math.prod(abs(one) for one in [*sizes, last])
    if count * 4 > context.budget.nbytes:
        yield beyond(place, f"a layer of about {count:,} weights", "do not build it")
