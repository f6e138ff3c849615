"""Which runtimes there are, what each reads, and how it is installed. Light: nothing of them is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

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
    signatures: bool = False
    """It opens further signatures of a file, by their names."""
    second: bool = False
    """It reads the format beside the runtime that the format is made for: what it cannot open is told, and no error."""

    @property
    def way(self) -> str:
        """What installs it."""
        return f"pip install 'modelkeep[{self.extra}]' brings it"

    def version(self) -> str | None:
        """The version that is installed, None where none is. Nothing of it is imported."""
        for package in self.packages:
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return None

    def load(self, path: Path, *, threads: int | None = None, signature: str | None = None) -> Session:
        """Open an artifact, where it has several by ``signature``.

        Raises:
            UsageError: the runtime is not installed; with what installs it.
            Damaged: it cannot open what is there.
        """
        if self.version() is None:
            raise UsageError(f"{self.name} is not installed; {self.way}")
        module: Module = import_module(f"modelkeep.runtime.{self.module}")
        chosen = {} if signature is None else {"signature": signature}
        return module.load(path, threads=threads, **chosen)


@dataclass(frozen=True, slots=True)
class Script(Runtime):
    """One that runs in JavaScript: ``module`` is its program there, and ``packages`` are npm's. It serves nobody here.

    Its artifact is proven as a browser runs it, by Node or by a browser.
    """

    host: Literal["node", "browser"] = "node"
    backend: str = ""
    fixed: bool = False
    """It takes exports of a fixed batch alone."""

    @property
    def way(self) -> str:
        """What installs it."""
        from modelkeep.runtime.javascript.packages import install

        needs = "Node runs it" if self.host == "node" else "Chromium runs it"
        return f"{needs}, and {install(self.packages)} brings it"

    def version(self) -> str | None:
        """The version that is installed, None where it is not, or where what runs it is not."""
        from modelkeep.runtime.javascript import packages

        there = packages.node() if self.host == "node" else packages.browser()
        return packages.installed(self.packages) if there is not None else None

    def load(self, path: Path, *, threads: int | None = None, signature: str | None = None) -> Session:
        """Open an artifact, on one thread. Raises what `Runtime.load` does."""
        del threads, signature
        if self.version() is None:
            raise UsageError(f"{self.name} is not installed; {self.way}")
        from modelkeep.runtime.javascript.session import load

        return load(path, self)


def _tfjs(backend: str, *, second: bool = False, host: Literal["node", "browser"] = "node") -> Script:
    packages = tuple(f"@tensorflow/tfjs-{one}" for one in ("core", "converter", f"backend-{backend}"))
    return Script(f"tfjs-{backend}", "tfjs", "tfjs", packages, "export", second=second, host=host, backend=backend)


RUNTIMES: tuple[Runtime, ...] = (
    Runtime("litert", "litert", "litert", ("ai-edge-litert",), "litert"),
    Runtime("onnxruntime", "onnxruntime", "onnx", ("onnxruntime", "onnxruntime-gpu"), "onnx"),
    Runtime("openvino", "openvino", "onnx", ("openvino",), "openvino", second=True),
    Runtime("openvino", "openvino", "savedmodel", ("openvino",), "openvino", second=True),
    Runtime(
        "tensorflow-c", "tensorflow_c", "savedmodel", ("tensorflow", "tensorflow-cpu"), "tensorflow", signatures=True
    ),
    _tfjs("cpu"),
    _tfjs("wasm", second=True),  # it has fewer operations
    _tfjs("webgl", second=True, host="browser"),
    Script("onnxruntime-web", "onnxruntime", "onnx", ("onnxruntime-web",), "onnx", second=True),
    Script("litert-js", "litert", "litert", ("@litertjs/core",), "litert", second=True, host="browser", fixed=True),
    Runtime("jax", "stablehlo", "stablehlo", ("jax",), "jax"),
    Runtime("torch", "pt2", "pt2", ("torch",), "torch"),
)
"""From the one that starts fastest on."""


def readers(format_name: str) -> list[Runtime]:
    """The runtimes that read a format; those that it is made for first."""
    return sorted((one for one in RUNTIMES if one.format == format_name), key=lambda one: one.second)
