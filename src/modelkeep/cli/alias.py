"""``modelkeep alias``: where the aliases of a model point, and to move one."""

from typing import Annotated

import typer

from modelkeep.cli.exits import exit_codes, tell_damage
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_models, open_keep
from modelkeep.cli.output import print_json, print_table

HELP = "List the aliases of MODEL, or let ALIAS point at VERSION; an earlier one rolls back, 0 takes it away."
EPILOG = exit_codes(3, 4, 5, 6, 7)


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=complete_models, help="Such as digits.")],
    alias: Annotated[str | None, typer.Argument(metavar="ALIAS", help="Such as champion.")] = None,
    version: Annotated[int | None, typer.Argument(metavar="VERSION", min=0, help="Its number.")] = None,
    *,
    expect: Annotated[
        int | None, typer.Option("--expect", min=0, help="Move it only from this version; 0: from nowhere.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the history.")] = "",
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List or move aliases."""
    opened = open_keep(keep)
    record = opened.model(model.removeprefix("model:"))
    if alias is not None and version is None:
        raise typer.BadParameter("name the version that it should point at, or 0 for none", param_hint="VERSION")
    if alias is not None:
        record.alias(alias, version or None, expect=expect, reason=reason)
    damages: list[str] = []
    found = record.aliases(on_damage=lambda _, error: damages.append(str(error)))
    if as_json:
        print_json({"keep": opened.url, "model": record.name, "aliases": found})
    elif quiet:
        for name in found:
            print(name)
    elif found:
        rows = [(name, f"model:{record.name}@{number}") for name, number in sorted(found.items())]
        print_table(f"model {record.name}", ("alias", "version"), rows)
    elif not damages:
        print(f"model {record.name} has no aliases")
    tell_damage(damages)
