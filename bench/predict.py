"""What a prediction without the training framework costs: from the start of a process, and of one call when warm.

The model is a small CNN. Each runtime stands beside itself with nothing around it, opening the same file.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import modelkeep as mk
from bench import contest, scratch
from bench.contest import Contender
from bench.report import Report, compared
from bench.settings import Settings
from modelkeep.keep import Keep

_TRAINED = """
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras, numpy as np, modelkeep as mk
layers = keras.layers
model = keras.Sequential([
    keras.Input((28, 28, 1), name="image"), layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization(),
    layers.MaxPool2D(), layers.Flatten(), layers.Dense(10, "softmax", name="digit"),
])
model.save("{root}/digits.keras")
x = np.random.default_rng(0).random((4, 28, 28, 1), "float32")
np.save("{root}/x.npy", x)
mk.open("{root}/keep").publish("digits", model, example=x)
"""

_BARE = {
    "litert": """
import numpy as np
from ai_edge_litert.interpreter import Interpreter
one = Interpreter(model_path="{file}")
at = one.get_input_details()[0]["index"]
x = np.load("{root}/x.npy")
one.resize_tensor_input(at, x.shape)
one.allocate_tensors()
one.set_tensor(at, x)
one.invoke()
one.get_tensor(one.get_output_details()[0]["index"])
""",
    "onnxruntime": """
import numpy as np, onnxruntime
one = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
one.run(None, {{"image": np.load("{root}/x.npy")}})
""",
    "tensorflow-c": """
import numpy as np
from pathlib import Path
from modelkeep.runtime import tensorflow_c
tensorflow_c.load(Path("{file}"))({{"image": np.load("{root}/x.npy")}})
""",
}
_OURS = """
import numpy as np, modelkeep as mk
mk.predictor("digits@1", keep="{root}/keep", runtime="{runtime}")(np.load("{root}/x.npy"))
"""
_KERAS = """
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras, numpy as np
keras.models.load_model("{root}/digits.keras")(np.load("{root}/x.npy"))
"""
_FORMATS = {"litert": "litert", "onnxruntime": "onnx", "tensorflow-c": "savedmodel"}
_CALLS = 2000


def run(settings: Settings) -> list[Report]:
    """Cold starts, warm calls, and what an export takes."""
    with scratch.folder() as root:
        _python(_TRAINED, root=root)
        keep = mk.open(f"{root}/keep")
        exports = Report("exports of the small CNN", ["format", "made, s", "found again, ms", "bytes"])
        for to in ("savedmodel", "litert", "onnx", "tfjs"):
            took = _timed(partial(keep.export, "digits@1", to, f"{root}/{to}"))
            again = min(_timed(partial(keep.export, "digits@1", to, f"{root}/{to}-{turn}")) for turn in range(3))
            proof = next(proof for export, proof in keep.exports("digits@1") if export.format == to)
            exports.add("ours", to, f"{took:.1f}", f"{again * 1e3:.1f}", f"{proof['bytes']:,}")
        return [
            exports,
            _cold(settings, root),
            *(_warm(settings, keep, root, name) for name in ("litert", "onnxruntime")),
        ]


def _cold(settings: Settings, root: Path) -> Report:
    """Whole processes, from their start to the first answer."""
    command = [str(Path(sys.executable).with_name("modelkeep")), "--keep", f"{root}/keep", "predict", "digits@1"]
    contenders = [Contender("keras.models.load_model", "peer", partial(_python, _KERAS, root=root), 3)]
    for runtime, script in _BARE.items():
        file = f"{root}/{_FORMATS[runtime]}"
        bare = partial(_python, script, root=root, file=file)
        contenders.append(Contender(f"{runtime}, bare", "limit", bare))
        contenders.append(
            Contender(f"{runtime}, mk.predictor", "ours", partial(_python, _OURS, root=root, runtime=runtime))
        )
        line = [*command, "--runtime", runtime, "--input", f"{root}/x.npy"]
        contenders.append(Contender(f"{runtime}, modelkeep predict", "ours", partial(_process, line)))
    results = contest.hold(contenders, settings.rounds, told=settings.told)
    base = next(one for one in results if one.contender.name == "litert, bare")
    return compared("cold start to the first answer, whole processes", results, base)


def _warm(settings: Settings, keep: Keep, root: Path, runtime: str) -> Report:
    """One call of a batch of one, in a process that has made many."""
    x = np.load(f"{root}/x.npy")[:1]
    predict = keep.predictor("digits@1", runtime=runtime, threads=1, warm_up=True)
    bare = _bare(runtime, f"{root}/{_FORMATS[runtime]}", x)
    contenders = [
        Contender(f"{runtime}, bare", "limit", partial(_per_call, bare)),
        Contender("mk.predictor", "ours", partial(_per_call, lambda: predict(x))),
    ]
    results = contest.hold(contenders, settings.rounds, told=settings.told)
    report = compared(f"a warm call by {runtime}, one thread", results, results[0], unit="µs", scale=1e6)
    more = (results[1].middle - results[0].middle) * 1e6
    report.remarks.append(f"{more:.1f} µs more than the bare runtime")
    return report


def _bare(runtime: str, file: str, x: Any) -> Callable[[], Any]:
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(["digit"], {"image": x})
    from ai_edge_litert.interpreter import Interpreter

    one = Interpreter(model_path=file, num_threads=1)
    at, to = one.get_input_details()[0]["index"], one.get_output_details()[0]["index"]
    one.resize_tensor_input(at, x.shape)
    one.allocate_tensors()

    def call() -> Any:
        one.set_tensor(at, x)
        one.invoke()
        return one.get_tensor(to)

    return call


def _per_call(call: Callable[[], Any]) -> float:
    return _timed(lambda: [call() for _ in range(_CALLS)]) / _CALLS


def _python(script: str, **names: object) -> float:
    return _process([sys.executable, "-c", script.format(**names)])


def _process(line: list[str]) -> float:
    # pip compiles what it installs; where Python is told to leave nothing behind, ours would be compiled at each start
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    nowhere = subprocess.DEVNULL
    return _timed(lambda: subprocess.run(line, check=True, env=surroundings, stdout=nowhere, stderr=nowhere))


def _timed(call: Callable[[], Any]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started
