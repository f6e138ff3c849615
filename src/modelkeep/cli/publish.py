"""``modelkeep publish``: a checkpoint, or a version, as the next version of a model."""

from typing import Annotated

import typer

from modelkeep.cli.exits import exit_codes
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_runs, open_keep
from modelkeep.cli.output import print_json

HELP = "Publish REF, such as run:cnn@best:val_loss, as the next version of the model NAME; no tensor is copied."
EPILOG = exit_codes(3, 4, 5, 6, 7)


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the model, such as digits.")],
    ref: Annotated[str, typer.Argument(metavar="REF", autocompletion=complete_runs, help="A checkpoint or version.")],
    *,
    alias: Annotated[str | None, typer.Option("--alias", help="Let this alias point at it.")] = None,
    card: Annotated[
        typer.FileText | None, typer.Option("--card", help="The model card, Markdown in the Hugging Face form.")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Such as apache-2.0.")] = None,
    parent: Annotated[
        list[str] | None, typer.Option("--parent", help="A version that it grew from; repeatable.")
    ] = None,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Publish a checkpoint."""
    from modelkeep.model.publish import Card
    from modelkeep.store.aliases import check_alias

    if alias is not None:
        check_alias(alias)  # before anything is published
    opened = open_keep(keep)
    given = Card(text=card.read() if card is not None else None, licence=licence)
    version = opened.publish(name, ref, card=given, parents=parent or ())
    if alias is not None:
        opened.alias(name, alias, version.number)
    if as_json:
        print_json({"keep": opened.url, "version": version.ref, "snapshot": version.snapshot_id, "alias": alias})
    elif not quiet:
        print(f"{version.ref}{f', and {alias} points at it' if alias is not None else ''}")
