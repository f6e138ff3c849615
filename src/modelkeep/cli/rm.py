"""``modelkeep rm``: remove a version that nothing needs."""

from typing import Annotated

import typer

from modelkeep.cli.exits import exit_codes
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_models, open_keep
from modelkeep.cli.output import print_json

HELP = "Remove the version MODEL@NUMBER; one that an alias or another version needs is refused. `gc` frees its space."
EPILOG = exit_codes(3, 4, 5, 6, 7)


def command(
    ref: Annotated[str, typer.Argument(metavar="REF", autocompletion=complete_models, help="Such as digits@2.")],
    *,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Remove a version."""
    from modelkeep.values import Ref

    parsed = Ref.parse(ref)
    if parsed.kind not in ("", "model") or not parsed.rev.isdigit():
        raise typer.BadParameter("a version is named by its number, such as digits@2", param_hint="REF")
    opened = open_keep(parsed.keep or keep)
    opened.model(parsed.name).remove(int(parsed.rev))
    if as_json:
        print_json({"keep": opened.url, "removed": f"model:{parsed.name}@{parsed.rev}"})
    elif not quiet:
        print(f"model:{parsed.name}@{parsed.rev} is removed; its number is not used again")
