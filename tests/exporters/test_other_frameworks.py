"""Graphs of what TensorFlow cannot trace: torch modules, functions of jax, and Keras layers in a backend's own code."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import modelkeep as mk
from modelkeep.errors import UsageError

PROGRAM = Path(__file__).with_name("bound_model.py")
X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")


class Net(torch.nn.Module):
    """Two inputs, a dict of outputs, and what differs in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8)
        self.drop, self.head = torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, gain: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.drop(torch.nn.functional.gelu(self.norm(self.first(x))))
        return {"scores": self.head(hidden).softmax(-1), "hidden": hidden * gain}


@pytest.mark.parametrize(("to", "runtime"), [("onnx", "onnxruntime"), ("pt2", "torch")])
def test_a_torch_module_answers_by_another_runtime(to: str, runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net()
    net(torch.randn(32, 6), torch.ones(32, 1))  # running statistics
    keep = mk.open(tmp_path / "keep")
    version = keep.publish("net", net, example=(X, X[:, :1]))
    keep.export(version, to, tmp_path / f"net.{to}", model=Net())  # of other weights: those of the version count
    predict = keep.predictor(version)
    assert predict.runtime.startswith(runtime)
    with torch.no_grad():
        wanted = net.eval()(torch.from_numpy(X), torch.from_numpy(X[:, :1]))
    found = predict([X, X[:, :1]])
    assert found.keys() == {"scores", "hidden"}
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name].numpy(), rtol=1e-4, atol=1e-6)


def apply(parameters: list[dict[str, Any]], inputs: dict[str, Any]) -> dict[str, Any]:
    first, last = parameters
    return {"y": jnp.tanh(inputs["x"] @ first["w"] + first["b"]) @ last["w"]}


@pytest.mark.parametrize(("to", "runtime"), [("stablehlo", "jax"), ("savedmodel", "tensorflow-c")])
def test_a_function_of_jax_answers_by_another_runtime(to: str, runtime: str, tmp_path: Path) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    parameters = [
        {"w": jax.random.normal(keys[0], (6, 8)), "b": jax.random.normal(keys[1], (8,))},
        {"w": jax.random.normal(keys[2], (8, 3))},
    ]
    wanted = apply(parameters, {"x": X})
    keep = mk.open(tmp_path / "keep")
    version = keep.publish("tanh", parameters, example=mk.Example({"x": X}, wanted))
    like = jax.tree.map(jnp.zeros_like, parameters)
    keep.export(version, to, tmp_path / f"tanh.{to}", model=(apply, like))
    predict = keep.predictor(version)
    assert predict.runtime.startswith(runtime)
    np.testing.assert_allclose(predict({"x": X})["y"], wanted["y"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("backend", "proven", "refused"),
    [("jax", "savedmodel", "litert"), ("torch", "onnx", "tfjs")],
)
@pytest.mark.torture
def test_a_layer_in_the_code_of_its_backend_goes_the_way_of_its_backend(
    backend: str, proven: str, refused: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), proven, refused],
        env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told[proven] < 1e-5, told
    assert told[refused].startswith(f"UsageError: model:bound@1 as {refused}: the model cannot be built under"), told


def test_what_computes_it_has_to_be_passed(tmp_path: Path) -> None:
    keep = mk.open(tmp_path / "keep")
    keep.publish("net", Net(), example=(X, X[:, :1]))
    with pytest.raises(UsageError, match=r"is not kept; in Python, pass model=YourModule"):
        keep.export("net", "onnx", tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=r"is a torch model, and litert is written from Keras models; .* onnx, pt2,"):
        keep.export("net", "litert", tmp_path / "net.tflite", model=Net())
    with pytest.raises(UsageError, match="modelkeep export model:net@1 --to onnx"):
        keep.predictor("net")
    assert [one.name for one in tmp_path.iterdir()] == ["keep"]
