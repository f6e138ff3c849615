"""``modelkeep import``: a foreign file as the next version of a model."""

from pathlib import Path
from typing import Annotated

import typer

from modelkeep.cli.exits import exit_codes
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption
from modelkeep.cli.output import print_json

HELP = "Publish the model or the weights in FILE as the next version of NAME; nothing in it is run."
EPILOG = exit_codes(3, 4, 5, 6, 7, 9, 10)


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file or folder of any format that is understood.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the model, such as digits.")],
    *,
    licence: Annotated[str | None, typer.Option("--licence", help="Such as apache-2.0.")] = None,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Import a foreign file."""
    from modelkeep.importers import open_weights
    from modelkeep.keep import open as open_place
    from modelkeep.model.publish import Card
    from modelkeep.values import check_name

    check_name(name, "model")
    open_weights(file)  # a file that is not there, or not understood, makes no keep
    opened = open_place(keep)
    version = opened.publish(name, Path(file), card=Card(licence=licence))
    if as_json:
        print_json({"keep": opened.url, "version": version.ref, "snapshot": version.snapshot_id, "file": file})
    elif not quiet:
        print(version.ref)
