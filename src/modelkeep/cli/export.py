"""``modelkeep export``: a model in a format of others, read back and compared before it has its name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelkeep.cli.exits import exit_codes
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_names, open_keep
from modelkeep.cli.output import print_json
from modelkeep.exporters.formats import FORMATS

if TYPE_CHECKING:
    from modelkeep.keep import Keep
    from modelkeep.values import Ref

HELP = (
    "Write a model in another format, prove it, and only then give it its name. Weights are read back and compared bit "
    "for bit; what a runtime runs is opened in it, and must answer the examples of the version as the model does."
)
EPILOG = exit_codes(3, 4, 5, 6, 7, 8, 9, 10)
_LISTED = "; ".join(f"{name}: {found.about}" for name, found in FORMATS.items())


def command(
    ref: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=complete_names, help="Such as digits@3.")],
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", autocompletion=lambda: list(FORMATS), help=f"{_LISTED}.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PATH", help="By default the model's name, with a suffix.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Take the place of what is there.")] = False,
    quantize: Annotated[
        str | None, typer.Option("--quantize", help="litert: dynamic, int8 or float16; tfjs: float16 or uint8.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="litert: the only size of the first axis.")] = None,
    flex: Annotated[bool, typer.Option("--flex", help="litert: allow what only the Flex delegate has.")] = False,
    opset: Annotated[int | None, typer.Option("--opset", help="onnx: from 15 to 18.")] = None,
    signature: Annotated[
        list[str] | None,
        typer.Option("--signature", metavar="LAYER", help="savedmodel: a layer's output as one more; repeatable."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="A share of the largest value of an output.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Make a graph anew, though the version has it.")] = False,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Export a model."""
    from modelkeep.values import Ref

    parsed = Ref.parse(ref)
    opened = open_keep(parsed.keep or keep)
    options: dict[str, Any] = {"quantize": quantize, "batch": batch, "flex": flex, "opset": opset}
    options["signatures"] = tuple(signature or ())
    path = opened.export(parsed, to, out, overwrite=overwrite, again=again, tolerance=tolerance, **options)
    if as_json:
        print_json({"keep": opened.url, "model": str(parsed), "format": to, "path": str(path)})
    elif not quiet:
        print(path)
        if FORMATS[to].is_graph:
            _print_proof(opened, parsed, to)


def _print_proof(keep: "Keep", ref: "Ref", to: str) -> None:
    """What the runtimes said, where the export is kept with a version."""
    from modelkeep.cli.models import print_exports
    from modelkeep.errors import NotFound

    try:
        newest = next(one for one in keep.exports(ref) if one[0].format == to)
    except (NotFound, StopIteration):  # a checkpoint, whose exports are not kept
        return
    print_exports("proof", [newest])
