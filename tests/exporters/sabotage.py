"""Exports that are wrong on purpose: the writer of a format, with a fault that the proof must catch.

Put in place of a format's module; ``SABOTAGE`` names the fault, ``SABOTAGE_OF`` the module of the format.
"""

import importlib
import os
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from modelkeep.exporters.built import Built
from modelkeep.exporters.options import Options


def changed_weight(built: Built, options: Options) -> tuple[Built, Options]:
    layer = next(layer for layer in built.model.layers if layer.name == "hidden")
    kernel = np.array(layer.kernel)
    kernel[0, 0] += 0.5
    layer.kernel.assign(kernel)
    return built, options


def swapped_outputs(built: Built, options: Options) -> tuple[Built, Options]:
    (one, first), (other, second) = built.model.output.items()
    return replace(built, model=keras.Model(built.model.inputs, {one: second, other: first})), options


def dropped_preprocessing(built: Built, options: Options) -> tuple[Built, Options]:
    next(layer for layer in built.model.layers if layer.name == "scaled").scale = 1.0
    return built, options


def wrong_batch(built: Built, options: Options) -> tuple[Built, Options]:
    return built, replace(options, batch=2)


def write(built: Built, out: Path, options: Options) -> None:
    changed, given = globals()[os.environ["SABOTAGE"]](built, options)
    importlib.import_module(os.environ["SABOTAGE_OF"]).write(changed, out, given)
