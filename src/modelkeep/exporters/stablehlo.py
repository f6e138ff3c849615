"""StableHLO, by `jax.export`: what jax, XLA and IREE compile, with the weights inside and a free batch."""

from pathlib import Path

import jax
from jax import export

from modelkeep.exporters.built import Built
from modelkeep.exporters.jax_function import pure, specs
from modelkeep.exporters.options import Options
from modelkeep.model.signature import named


def write(built: Built, out: Path, options: Options) -> None:  # noqa: ARG001  it has none
    """Write what ``jax.export.deserialize`` reads. Raises UsageError for text, which jax has not."""
    parameters, compute = pure(built)
    serve = jax.jit(lambda inputs: compute(parameters, inputs))
    out.write_bytes(export.export(serve)(specs(named(built.signature.inputs))).serialize())
