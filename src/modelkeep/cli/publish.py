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
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", metavar="[OUTPUT=]FILE", help="What the values of an output stand for, a line each."),
    ] = None,
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
    version = opened.publish(name, ref, card=given, parents=parent or (), labels=_labels(labels or []))
    if alias is not None:
        opened.alias(name, alias, version.number)
    if as_json:
        print_json({"keep": opened.url, "version": version.ref, "snapshot": version.snapshot_id, "alias": alias})
    elif not quiet:
        print(f"{version.ref}{f', and {alias} points at it' if alias is not None else ''}")


def _labels(given: list[str]) -> list[str] | dict[str, list[str]] | None:
    """The labels in files: of the only output, or by the names of outputs."""
    if not given:
        return None
    if len(given) == 1 and "=" not in given[0]:
        return _lines(given[0])
    found = {}
    for one in given:
        name, separator, path = one.partition("=")
        if not separator:
            raise typer.BadParameter(f"say whose labels {one} are: OUTPUT={one}", param_hint="--labels")
        found[name] = _lines(path)
    return found


def _lines(path: str) -> list[str]:
    from modelkeep.errors import StorageError

    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: it cannot be read: {getattr(error, 'strerror', None) or error}") from error
