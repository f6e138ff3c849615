"""TensorFlow.js in Node, to prove a graph model where no browser is: one process for each batch of calls."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep.errors import Damaged, UsageError
from modelkeep.model.signature import TensorInfo
from modelkeep.runtime.table import Arrays, Inputs

VERSION = "4.22.0"
PACKAGES = ("tfjs-core", "tfjs-converter", "tfjs-backend-cpu", "tfjs-backend-wasm")
INSTALL = f"npm install {' '.join(f'@tensorflow/{name}@{VERSION}' for name in PACKAGES)}"
MODULES = "MODELKEEP_NODE_MODULES"
"""Names the folder ``node_modules`` where it is neither beside the environment of Python nor above this folder."""

_SCRIPT = Path(__file__).with_name("tfjs_run.cjs")
_SECONDS = 300
_DTYPES = {"DT_FLOAT": "float32", "DT_INT32": "int32", "DT_BOOL": "bool", "DT_STRING": "string"}


@lru_cache(maxsize=1)
def version() -> str | None:
    """The version of TensorFlow.js that Node finds, None where there is none."""
    folder = _modules()
    if folder is None or shutil.which("node") is None:
        return None
    try:
        document = json.loads((folder / "@tensorflow" / "tfjs-core" / "package.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return str(document.get("version"))


def load(path: Path, *, threads: int | None = None) -> "Session":
    """Open the folder of a graph model, on the backend cpu. Raises Damaged, UsageError."""
    del threads
    if version() is None:
        raise UsageError(f"TensorFlow.js is run by Node, which does not find it here; {INSTALL}")
    try:
        signature = json.loads((path / "model.json").read_text("utf-8"))["signature"]
        return Session(path, signature, "cpu")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path.name}: it is no graph model of TensorFlow.js: {error!s:.200}", str(path)) from None


class Session:
    """A folder, and the backend on which it is run."""

    def __init__(self, path: Path, signature: Mapping[str, Any], backend: str) -> None:
        self._path, self._backend = path, backend
        self.inputs = {name: _info(name, one) for name, one in signature["inputs"].items()}
        self.outputs = {name: _info(name, one) for name, one in signature["outputs"].items()}

    def on(self, backend: str) -> "Session":
        """The same on another backend: ``"cpu"`` or ``"wasm"``."""
        found = object.__new__(Session)
        found._path, found._backend, found.inputs, found.outputs = self._path, backend, self.inputs, self.outputs
        return found

    def __call__(self, inputs: Inputs) -> Arrays:
        """Compute. Raises UsageError."""
        with tempfile.TemporaryDirectory(prefix="modelkeep-node-") as folder:
            given = {name: _put(folder, array, self.inputs[name].dtype) for name, array in inputs.items()}
            job = {"model": str(self._path.absolute()), "backend": self._backend, "inputs": given, "out": folder}
            modules = str(_modules())
            done = subprocess.run(
                ["node", str(_SCRIPT)], input=json.dumps(job), capture_output=True, text=True, timeout=_SECONDS,
                check=False, env={**os.environ, "NODE_PATH": modules},
            )  # fmt: skip
            if done.returncode != 0:
                raise UsageError(f"{self._path.name}: TensorFlow.js could not compute it: {_last(done.stderr):.400}")
            told = json.loads(Path(folder, "answer.json").read_text("utf-8"))
            return {name: _got(folder, one) for name, one in told.items()}


def _modules() -> Path | None:
    given = os.environ.get(MODULES)
    here = Path.cwd()
    places = [Path(given)] if given else [Path(sys.prefix), here, *here.parents]
    for place in places:
        folder = place if given else place / "node_modules"
        if (folder / "@tensorflow" / "tfjs-converter").is_dir():
            return folder
    return None


def _put(folder: str, array: "np.ndarray[Any, Any]", dtype: str) -> dict[str, Any]:
    about: dict[str, Any] = {"shape": list(array.shape), "dtype": dtype}
    if dtype == "string":
        return {**about, "values": [one.decode() if isinstance(one, bytes) else str(one) for one in array.flat]}
    file = f"{folder}/in-{len(os.listdir(folder))}.bin"
    Path(file).write_bytes(np.ascontiguousarray(array, "u1" if dtype == "bool" else dtype).tobytes())
    return {**about, "file": file}


def _got(folder: str, told: Mapping[str, Any]) -> "np.ndarray[Any, Any]":
    if told["dtype"] == "string":
        found = np.empty(told["shape"], object)
        found.reshape(-1)[:] = [one.encode() for one in told["values"]]
        return found
    data = Path(folder, told["file"]).read_bytes()
    array = np.frombuffer(data, "u1" if told["dtype"] == "bool" else told["dtype"]).reshape(told["shape"])
    return array.astype(told["dtype"])


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "Error" in line]
    return lines[-1] if lines else text.strip()


def _info(name: str, told: Mapping[str, Any]) -> TensorInfo:
    sizes = [int(one.get("size", 0)) for one in told.get("tensorShape", {}).get("dim", [])]
    return TensorInfo(name, _DTYPES.get(told["dtype"], told["dtype"]), tuple(None if one < 0 else one for one in sizes))
