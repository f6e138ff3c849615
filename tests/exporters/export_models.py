"""A program: export models under one backend, or load what was exported with Keras alone, and say what is wrong.

``export_models.py export FOLDER`` and ``export_models.py read FOLDER``, with KERAS_BACKEND set. It prints one line of
JSON for each case: its name and what is wrong ("" where nothing is).
"""

import json
import pickle
import sys
import traceback
from pathlib import Path

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from architecture_cases import CUSTOM, cases

import modelkeep as mk
from modelkeep.frameworks import keras as door
from modelkeep.model.keras_model import answers
from modelkeep.state import differences, flatten

HERE = keras.backend.backend()


def export(folder):
    """Export each in every format; each export proves itself. What is foreign is read again by our own importers."""
    keep = mk.open(folder / "keep")
    for name, made in cases().items():
        report(name, lambda made=made, name=name: exported(keep, folder, name, *made()))


def exported(keep, folder, name, model, inputs):
    arrays = keras.tree.map_structure(lambda part: part.numpy() if hasattr(part, "numpy") else part, inputs)
    keep.publish(name, model, example=arrays)
    for to in ("keras", "weights-h5", "safetensors", "huggingface"):
        keep.export(name, to, folder / f"{name}.{to}", custom_objects=CUSTOM)
    (folder / f"{name}.pickle").write_bytes(pickle.dumps(keep.load_state(name, select="examples")["examples"]))
    weights = flatten(keep.load_state(name, select="model")["model"]).arrays
    read = {path: tensor.read() for path, tensor in open_weights(folder / f"{name}.safetensors").tensors.items()}
    wrong = differences(weights, read)
    again = mk.load_model(folder / f"{name}.keras", custom_objects=CUSTOM)
    wrong += differences(door.state_of(model)["model"], door.state_of(again)["model"])
    # Keras' files hold only some seeds, and adapters as a part of what they adapt
    left_out = ("seed_generator", *(f"lora_{what}_{one}" for what in ("kernel", "embeddings") for one in "ab"))
    merged = () if "lora" not in name else ("kernel", "embeddings", "kernel_scale")
    return "; ".join(line for line in wrong if not line.split(":")[0].endswith((*left_out, *merged)))


def read(folder):
    """Load each ``.keras`` file with Keras in a process that never saw the model, and ask it again."""
    for name in cases():
        if (folder / f"{name}.keras").exists():
            report(name, lambda name=name: answered(folder, name))


def answered(folder, name):
    model = keras.models.load_model(folder / f"{name}.keras", custom_objects=CUSTOM)
    examples = pickle.loads((folder / f"{name}.pickle").read_bytes())
    found = flatten(answers(model, examples["inputs"])).arrays
    wanted = flatten(examples["outputs"]).arrays
    assert found.keys() == wanted.keys()
    exact = HERE != "torch"  # whose recurrent layers give other last bits from call to call
    same = np.array_equal if exact else lambda one, two, **_: np.allclose(one, two, 1e-5, 1e-5, equal_nan=True)
    numbers = {path for path, array in wanted.items() if array.dtype.kind == "f"}
    return "; ".join(path for path in wanted if not same(found[path], wanted[path], equal_nan=path in numbers))


def report(name, act):
    try:
        wrong = act()
    except Exception as error:  # noqa: BLE001  whatever it was, it is what is wrong
        wrong = f"{type(error).__name__}: {error!s:.300}\n{traceback.format_exc()[-1500:]}"
    print(json.dumps({"case": name, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    from modelkeep.importers import open_weights

    {"export": export, "read": read}[sys.argv[1]](Path(sys.argv[2]))
