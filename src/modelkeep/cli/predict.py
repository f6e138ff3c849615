"""``modelkeep predict``: the answers of a model to what is in a file."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelkeep.cli.exits import exit_codes
from modelkeep.cli.options import KeepOption, complete_models
from modelkeep.cli.output import print_json

if TYPE_CHECKING:
    from modelkeep.runtime.predictor import Predictor

HELP = "Answer what is in a file (.npy, .npz, .json, .csv, .png, .jpg, .txt, or JSON from stdin for -) by a model."
EPILOG = exit_codes(3, 4, 5, 7, 9)


def command(
    ref: Annotated[
        str, typer.Argument(metavar="MODEL", autocompletion=complete_models, help="Such as digits@champion.")
    ],
    *,
    source: Annotated[str, typer.Option("--input", "-i", metavar="PATH", help="The input; - for JSON from stdin.")],
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="PATH", help="Write .npy or .npz instead of printing JSON.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="litert, onnxruntime, openvino, tensorflow-c or keras.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="How many the runtime may use.")] = None,
    allow_nan: Annotated[bool, typer.Option("--allow-nan", help="Take NaN in the input.")] = False,
    keep: KeepOption = None,
) -> None:
    """Predict."""
    from modelkeep.models import predictor as opened
    from modelkeep.runtime.inputs import read_inputs

    predictor = opened(ref, keep=keep, runtime=runtime, threads=threads)
    found = predictor(read_inputs(source, predictor.signature), allow_nan=allow_nan)
    if out is not None:
        _write(out, predictor, found)
    else:
        labels = predictor.labels(found)
        told = {"model": predictor.ref, "runtime": predictor.runtime, "outputs": _plain(found)}
        print_json({**told, "labels": labels} if labels else told)


def _write(out: str, predictor: "Predictor", found: Any) -> None:
    import numpy as np

    from modelkeep.errors import StorageError, UsageError
    from modelkeep.model.signature import flat

    outputs = flat(predictor.signature.outputs, found)
    try:
        if out.endswith(".npy") and len(outputs) == 1:
            np.save(out, next(iter(outputs.values())), allow_pickle=False)
        elif out.endswith(".npz"):
            np.savez(out, **outputs)
        else:
            raise UsageError(f"{out}: name a .npz file{', or .npy' if len(outputs) == 1 else ''}")
    except OSError as error:
        raise StorageError(f"{out}: it could not be written: {error.strerror or error}") from error


def _plain(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _plain(one) for name, one in found.items()}
    if isinstance(found, list):
        return [_plain(one) for one in found]
    return _texts(found.tolist()) if found.dtype == object else found.tolist()


def _texts(found: Any) -> Any:
    if isinstance(found, list):
        return [_texts(one) for one in found]
    return found.decode(errors="replace") if isinstance(found, bytes) else found
