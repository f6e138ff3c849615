"""A program: write models under one backend, or build what all backends wrote and say what differs.

``round_trip.py write FOLDER`` and ``round_trip.py read FOLDER [BACKEND ...]``, with KERAS_BACKEND set. It prints one
line of JSON for each case: its name, the backend that wrote it, and what is wrong ("" where nothing is).
"""

import json
import random
import sys
import traceback
from pathlib import Path

import keras
import numpy as np
from architecture_cases import CUSTOM, cases

from modelkeep.model.architecture import describe
from modelkeep.model.build import build, settle

HERE = keras.backend.backend()


def flat(outputs):
    return [keras.ops.convert_to_numpy(part) for part in keras.tree.flatten(outputs)]


def as_bits(array):
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), "uint8")


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, made in cases().items():
        random.seed(7)
        keras.utils.set_random_seed(7)
        try:
            model, inputs = made()
            found = describe(model)
            (folder / f"{name}.json").write_text(json.dumps(found, allow_nan=False))
            weights = {str(number): as_bits(weight) for number, weight in enumerate(model.get_weights())}
            outputs = {f"out{number}": as_bits(part) for number, part in enumerate(flat(model(inputs)))}
            np.savez(folder / f"{name}.npz", **weights, **outputs)
            report(name, HERE, "")
        except Exception:  # noqa: BLE001  whatever it was, it is what is wrong
            report(name, HERE, traceback.format_exc()[-1500:])


def read(folder, writers):
    for writer in writers:
        for name, made in cases().items():
            if (folder / writer / f"{name}.json").exists():
                try:
                    report(name, writer, compare(folder / writer, name, made, exact=writer == HERE))
                except Exception:  # noqa: BLE001  the same
                    report(name, writer, traceback.format_exc()[-1500:])


def compare(folder, name, made, *, exact):
    """What is wrong with the model that is built from what was written, or nothing."""
    wanted = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as stored:
        arrays = dict(stored)
    inputs = made()[1]
    model = build(wanted, custom_objects=CUSTOM, compiled=True)
    zeros = build(wanted, custom_objects=CUSTOM, drawn=False)
    own = model.get_weights()
    stored = [arrays[str(number)] for number in range(sum(not key.startswith("out") for key in arrays))]
    if [weight.nbytes for weight in own] != [bits.size for bits in stored]:
        return f"weights: {[weight.nbytes for weight in own]} built, {[bits.size for bits in stored]} stored"
    loaded = [bits.view(np.uint8).tobytes() for bits in stored]
    values = [np.frombuffer(data, weight.dtype).reshape(weight.shape) for data, weight in zip(loaded, own, strict=True)]
    for target in (model, zeros):
        target.set_weights(values)
        settle(target)
    if [weight.tobytes() for weight in model.get_weights()] != loaded:
        return "the weights are not those that were set"
    got = [as_bits(part) for part in flat(model(inputs))]
    if [bits.tolist() for bits in got] != [as_bits(part).tolist() for part in flat(zeros(inputs))]:
        return "a model that was built without drawing differs"
    outputs = [arrays[key] for key in sorted((k for k in arrays if k.startswith("out")), key=lambda k: int(k[3:]))]
    if [bits.size for bits in got] != [bits.size for bits in outputs]:
        return "the outputs have other sizes"
    if exact and any(not np.array_equal(one, two) for one, two in zip(got, outputs, strict=True)):
        return "the outputs are not the same bits"
    again = json.loads(json.dumps(describe(model)))
    for key in ("model", "compile", "vocabularies"):
        if again[key] != wanted[key]:
            return f"{key} differs: {first_difference(wanted[key], again[key])}"
    return ""


def first_difference(one, two, place=""):
    if isinstance(one, dict) and isinstance(two, dict):
        for key in one.keys() | two.keys():
            if one.get(key) != two.get(key):
                return first_difference(one.get(key), two.get(key), f"{place}.{key}")
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for index, (left, right) in enumerate(zip(one, two, strict=True)):
            if left != right:
                return first_difference(left, right, f"{place}[{index}]")
    return f"{place}: {one!r:.200} and {two!r:.200}"


def report(name, writer, wrong):
    print(json.dumps({"case": name, "writer": writer, "reader": HERE, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    root = Path(sys.argv[2])
    if sys.argv[1] == "write":
        write(root / HERE)
    else:
        read(root, sys.argv[3:])
