"""LiteRT (``.tflite``): builtin operations only, unless Flex is asked for."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from modelkeep.errors import UsageError
from modelkeep.exporters.built import Built
from modelkeep.exporters.litert_metadata import described
from modelkeep.exporters.options import Options
from modelkeep.exporters.portable import portable
from modelkeep.exporters.serving import SIGNATURE
from modelkeep.exporters.tracing import recurrent, save
from modelkeep.model.signature import flat, named

_OPERATION = re.compile(r"'?tf\.([A-Z]\w+)'? op")
_CUSTOM = re.compile(r"Flex(\w+)|custom op: (\w+)")


def write(built: Built, out: Path, options: Options) -> None:
    """Write one file.

    Recurrent layers of a free batch are unrolled: a loop keeps a list whose shape LiteRT must know. With a fixed
    batch they stay loops.

    Raises:
        UsageError: operations that the builtins have not, by name, with the way out.
    """
    unrolled = options.batch is None and bool(recurrent(built.model)) and not options.flex
    if unrolled and any(None in info.shape[1:] for info in named(built.signature.inputs).values()):
        raise UsageError(
            "a recurrent layer over a sequence of free length cannot be unrolled, and LiteRT's builtins have no loop "
            "of free batch; export with batch=1 (--batch 1)"
        )
    with portable(built.model):
        folder = save(built, out.with_name(f"{out.name}.saved"), batch=options.batch, unrolled=unrolled)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[SIGNATURE])
    _quantize(converter, built, options)
    if options.flex:
        converter.target_spec.supported_ops = [*converter.target_spec.supported_ops, tf.lite.OpsSet.SELECT_TF_OPS]
    try:
        data = converter.convert()
    except Exception as error:  # noqa: BLE001  the converter raises what it likes
        raise _refused(str(error)) from None
    out.write_bytes(described(data, built, options.name))


def _quantize(converter: Any, built: Built, options: Options) -> None:
    if options.quantize is None:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if options.quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif options.quantize == "int8":
        converter.representative_dataset = lambda: _rows(built)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def _rows(built: Built) -> Iterator[dict[str, np.ndarray]]:
    """The examples one by one, to calibrate on."""
    inputs = flat(built.signature.inputs, built.examples)
    for row in range(len(next(iter(inputs.values())))):
        yield {name: np.asarray(array[row : row + 1]) for name, array in inputs.items()}


def _refused(text: str) -> UsageError:
    found = sorted({one for pair in [*_OPERATION.findall(text), *_CUSTOM.findall(text)] for one in _words(pair)})
    if not found:
        return UsageError(f"LiteRT's converter refuses it: {text.strip()[:400]}")
    return UsageError(
        f"LiteRT's builtins have no {', '.join(found[:8])}; take that step out of the model (a step on text is done "
        "before), or pass flex=True (--flex) where the app brings the Flex delegate"
    )


def _words(found: str | tuple[str, ...]) -> list[str]:
    return [found] if isinstance(found, str) else [one for one in found if one]
