"""``modelkeep export``: a model in a format of others, read back and compared before it has its name."""

from pathlib import Path
from typing import Annotated

import typer

from modelkeep.cli.exits import exit_codes
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_names, open_keep
from modelkeep.cli.output import print_json
from modelkeep.exporters.formats import FORMATS

HELP = "Write a model in another format, read it back, compare it bit for bit, and only then give it its name."
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
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Export a model."""
    from modelkeep.values import Ref

    parsed = Ref.parse(ref)
    opened = open_keep(parsed.keep or keep)
    path = opened.export(parsed, to, out, overwrite=overwrite)
    if as_json:
        print_json({"keep": opened.url, "model": str(parsed), "format": to, "path": str(path)})
    elif not quiet:
        print(path)
