"""ONNX, from a model whose code is torch's, by torch's own exporter."""

import logging
import warnings
from pathlib import Path

import torch

from modelkeep.exporters.built import Built
from modelkeep.exporters.options import Options
from modelkeep.exporters.torch_program import traced
from modelkeep.model.signature import named

OPSET = 18
"""What the exporter itself is written for."""


def write(built: Built, out: Path, options: Options) -> None:
    """Write one file with the model's own names. Raises UsageError as `traced` does."""
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    inputs, outputs = (list(named(infos)) for infos in (built.signature.inputs, built.signature.outputs))
    program = traced(built)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.onnx.export(
            program, input_names=inputs, output_names=outputs, opset_version=options.opset or OPSET, verbose=False
        )
    assert found is not None
    found.model.producer_name = "modelkeep"
    found.save(str(out), external_data=False)
