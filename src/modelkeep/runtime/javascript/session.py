"""An artifact that was opened in JavaScript, under Node or in a browser, which stays there for as long as this does."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modelkeep.errors import Damaged, UsageError
from modelkeep.model.signature import TensorInfo
from modelkeep.runtime.table import Arrays, Inputs, Script

SECONDS = 300
"""An answer may take so long."""


class Host(Protocol):
    """Where the programs run."""

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a job. Raises UsageError where the host has ended, or does not answer."""


def load(path: Path, script: Script) -> "Session":
    """Open a file, or the folder of an artifact that has several. Raises Damaged, UsageError."""
    host: Host
    if script.host == "browser":
        from modelkeep.runtime.javascript.browser import Browser

        host = Browser(path, script)
    else:
        from modelkeep.runtime.javascript.node import Node

        host = Node(path, script)
    job = {"open": script.module, "backend": script.backend}
    told = host.ask(job)
    if "error" in told:
        raise Damaged(f"{path.name}: {script.name} cannot open it: {told['error']!s:.400}", str(path))
    return Session(host, f"{path.name}: {script.name}", told)


class Session:
    """What a program has opened."""

    def __init__(self, host: Host, who: str, told: Mapping[str, Any]) -> None:
        self._host, self._who = host, who
        self.inputs: Mapping[str, TensorInfo] = _infos(told["inputs"])
        self.outputs: Mapping[str, TensorInfo] = _infos(told["outputs"])

    def __call__(self, inputs: Inputs) -> Arrays:
        """Compute. Raises UsageError."""
        if inputs.keys() != self.inputs.keys():
            asked, given = (", ".join(one) for one in (self.inputs, inputs))
            raise UsageError(f"{self._who} asks for {asked}, and {given} was given")
        told = self._host.ask({"inputs": {name: _packed(one, self.inputs[name].dtype) for name, one in inputs.items()}})
        if "error" in told:
            raise UsageError(f"{self._who} could not compute it: {told['error']!s:.400}")
        return {name: _unpacked(one) for name, one in told["answers"].items()}


def _infos(told: list[dict[str, Any]]) -> dict[str, TensorInfo]:
    return {
        one["name"]: TensorInfo(one["name"], one["dtype"], tuple(None if axis < 0 else axis for axis in one["shape"]))
        for one in told
    }


def _packed(array: "np.ndarray[Any, Any]", dtype: str) -> dict[str, Any]:
    about: dict[str, Any] = {"shape": list(array.shape), "dtype": dtype}
    if dtype == "string":
        return {**about, "values": [one.decode() if isinstance(one, bytes) else str(one) for one in array.flat]}
    data = np.asarray(array, "u1" if dtype == "bool" else np.dtype(dtype).newbyteorder("<"), order="C").tobytes()
    return {**about, "data": base64.b64encode(data).decode()}


def _unpacked(told: Mapping[str, Any]) -> "np.ndarray[Any, Any]":
    if told["dtype"] == "string":
        found = np.empty(told["shape"], object)
        found.reshape(-1)[:] = [one.encode() for one in told["values"]]
        return found
    stored = np.dtype("u1" if told["dtype"] == "bool" else told["dtype"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(told["data"]), stored).reshape(told["shape"]).astype(told["dtype"])
