"""The options that every command has."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.training.place import VARIABLE

if TYPE_CHECKING:
    from modelkeep.keep import Keep
    from modelkeep.store import RunRecord


def complete_runs(context: typer.Context, incomplete: str) -> list[str]:
    """The runs of the keep that the command line names so far, for the shell's completion."""
    from modelkeep.errors import ModelkeepError

    try:
        keep = open_keep(context.params.get("keep"))
        return [one.name for one in keep.runs() if one.name.startswith(incomplete)]
    except ModelkeepError:
        return []  # a shell has nowhere to show an error while a word is being typed


def complete_models(context: typer.Context, incomplete: str) -> list[str]:
    """The same for models."""
    from modelkeep.errors import ModelkeepError

    try:
        return [name for name in open_keep(context.params.get("keep")).models() if name.startswith(incomplete)]
    except ModelkeepError:
        return []


def complete_names(context: typer.Context, incomplete: str) -> list[str]:
    """Runs and models."""
    return [*complete_runs(context, incomplete), *complete_models(context, incomplete)]


def _keep_named(context: typer.Context, value: str | None) -> str | None:
    """The keep of this command, or else the one that stands before the command: ``modelkeep --keep PATH ls``."""
    if value is not None and not value.strip():
        raise typer.BadParameter("the name of the keep is empty; give a path or URL, or leave the option out")
    if value is None and context.parent is not None:
        before: str | None = context.parent.params.get("keep")
        return before
    return value


KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="PATH_OR_URL",
        help=f"The keep; by default ${VARIABLE}, else ./keep.",
        callback=_keep_named,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts; NaN and infinities as null.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print names only, or nothing where there are none.")]


def open_keep(place: str | None) -> "Keep":
    """Open the keep that ``--keep`` names; a command that reads never makes one.

    Raises:
        NotFound, UnknownFormat, StorageError: see `modelkeep.open`; it says how another keep is named.
    """
    from modelkeep.errors import NotFound
    from modelkeep.keep import open as open_place
    from modelkeep.training.place import default_place

    where = place or default_place()
    try:
        return open_place(where, create=False)
    except NotFound:
        text = f"there is no keep at {os.path.abspath(where) if '://' not in where else where}"
        raise NotFound(f"{text}; name one with --keep or ${VARIABLE}") from None


def find_run(keep: "Keep", name: str) -> "RunRecord":
    """The record of a run; ``run:NAME`` is the same.

    Raises:
        NotFound: there is none; those with close names are listed.
    """
    from difflib import get_close_matches

    from modelkeep.errors import NotFound

    name = name.removeprefix("run:")
    record = keep.store.run(name)
    if record.exists():
        return record
    names = keep.names()
    close = get_close_matches(name, names, 3, 0.5) or names[:8]
    there = f"did you mean {' or '.join(close)}?" if close else "it has no runs yet"
    raise NotFound(f"there is no run {name} in {keep.url}; {there}")


def is_model(keep: "Keep", name: str) -> bool:
    """Whether a name, with its kind or without, is one of a model and of no run."""
    if name.startswith("model:"):
        return True
    if name.startswith("run:"):
        return False
    return keep.store.model(name).exists() and not keep.store.run(name).exists()
