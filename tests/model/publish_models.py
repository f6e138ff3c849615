"""A program: publish models under one backend, or load what another backend published, and say what is wrong.

``publish_models.py publish KEEP`` and ``publish_models.py load KEEP BACKEND``, with KERAS_BACKEND set; with FIRST PAST
behind, graphs drawn at random for these seeds instead of the cases. It prints one line of JSON for each case: its name
and what is wrong ("" where nothing is).
"""

import json
import sys
import traceback

import architecture_cases
import keras
import random_graphs
from architecture_cases import CUSTOM

import modelkeep as mk
from modelkeep.frameworks import keras as door
from modelkeep.model.architecture import describe
from modelkeep.model.keras_model import answers
from modelkeep.state import differences

HERE = keras.backend.backend()


def publish(keep, cases):
    """Publish each, load it in this very process, and compare weights, answers and what it says of itself."""
    for name, made in cases.items():
        report(name, lambda made=made, name=name: published(keep, f"{HERE}-{name}", *made()))


def published(keep, name, model, inputs):
    arrays = keras.tree.map_structure(lambda part: part.numpy() if hasattr(part, "numpy") else part, inputs)
    before = door.state_of(model, copy=True)
    version = keep.publish(name, model, example=arrays)
    loaded = keep.load_model(version, custom_objects=CUSTOM, compiled=True, check=True)
    wrong = differences(before, door.state_of(model))
    wrong += differences(describe(model), describe(loaded))
    wrong += differences(before["model"], door.state_of(loaded)["model"])
    examples = keep.load_state(version, select="examples")["examples"]
    if HERE != "torch":  # whose recurrent layers give other last bits from call to call
        wrong += differences(answers(loaded, examples["inputs"]), examples["outputs"])
    return "; ".join(wrong)


def load(keep, writer, cases):
    """Load what another backend has published: the weights are the same bits, the answers close."""
    for name in cases:
        if f"{writer}-{name}" in keep.models():
            report(name, lambda name=name: loaded(keep, f"{writer}-{name}@1"))


def loaded(keep, ref):
    model = keep.load_model(ref, custom_objects=CUSTOM, check=True)
    kept = keep.load_state(ref, select=["model", "architecture"])
    found, wanted = door.state_of(model)["model"], kept["model"]
    # how wide a whole number is (of a seed) is the backend's choice
    wrong = [line for line in differences(wanted, found) if "int" not in line]
    return "; ".join(wrong + differences(json.loads(kept["architecture"])["model"], describe(model)["model"]))


def report(name, act):
    try:
        wrong = act()
    except Exception:  # noqa: BLE001  whatever it was, it is what is wrong
        wrong = traceback.format_exc()[-1500:]
    print(json.dumps({"case": name, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    act, place, *rest = sys.argv[1:]
    others, seeds = [one for one in rest if not one.isdigit()], [int(one) for one in rest if one.isdigit()]
    wanted = random_graphs.cases(*seeds) if seeds else architecture_cases.cases()
    if act == "publish":
        publish(mk.open(place), wanted)
    else:
        load(mk.open(place), *others, wanted)
