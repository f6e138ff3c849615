"""Which runtimes there are, what each reads, and how it is installed. Light: nothing of them is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from modelkeep.errors import UsageError
from modelkeep.model.signature import TensorInfo

Arrays: TypeAlias = "dict[str, np.ndarray[Any, Any]]"
Inputs: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"


class Session(Protocol):
    """An artifact that was opened: called with inputs by name, it answers with outputs by name.

    Arrays have the dtypes that it takes; text is an object array of bytes.
    """

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]

    def __call__(self, inputs: Inputs) -> Arrays:
        """Compute. Raises UsageError where the runtime cannot."""


class Module(Protocol):
    """What the module of a runtime has."""

    def load(self, path: Path, *, threads: int | None) -> Session:
        """Open an artifact: a file, or the folder of one that has several."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One runtime: its module, the format that it reads, and the packages that have it."""

    name: str
    module: str
    format: str
    packages: tuple[str, ...]
    extra: str
    second: bool = False
    """It reads the format beside the runtime that the format is made for: what it cannot open is told, and no error."""

    def version(self) -> str | None:
        """The version that is installed, None where none is. Nothing of it is imported."""
        if self.format == "tfjs":
            from modelkeep.runtime import tfjs

            return tfjs.version()
        for package in self.packages:
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return None

    def load(self, path: Path, *, threads: int | None = None) -> Session:
        """Open an artifact.

        Raises:
            UsageError: the runtime is not installed; with what installs it.
            Damaged: it cannot open what is there.
        """
        if self.version() is None and self.format != "tfjs":  # that says how Node gets it
            raise UsageError(f"{self.name} is not installed; pip install 'modelkeep[{self.extra}]' brings it")
        module: Module = import_module(f"modelkeep.runtime.{self.module}")
        return module.load(path, threads=threads)


RUNTIMES = (
    Runtime("litert", "litert", "litert", ("ai-edge-litert",), "litert"),
    Runtime("onnxruntime", "onnxruntime", "onnx", ("onnxruntime", "onnxruntime-gpu"), "onnx"),
    Runtime("openvino", "openvino", "onnx", ("openvino",), "openvino", second=True),
    Runtime("openvino", "openvino", "savedmodel", ("openvino",), "openvino", second=True),
    Runtime("tensorflow-c", "tensorflow_c", "savedmodel", ("tensorflow", "tensorflow-cpu"), "tensorflow"),
    Runtime("tfjs-cpu", "tfjs", "tfjs", (), "export"),
    Runtime("tfjs-wasm", "tfjs_wasm", "tfjs", (), "export", second=True),  # it has fewer operations than cpu
    Runtime("jax", "stablehlo", "stablehlo", ("jax",), "jax"),
    Runtime("torch", "pt2", "pt2", ("torch",), "torch"),
)
"""From the one that starts fastest on."""


def readers(format_name: str) -> list[Runtime]:
    """The runtimes that read a format; those that it is made for first."""
    return sorted((one for one in RUNTIMES if one.format == format_name), key=lambda one: one.second)
