"""The command line: which commands there are."""

from typing import Annotated

import typer

from modelkeep.cli import (
    adopt,
    alias,
    cat,
    demo,
    doctor,
    export,
    gc,
    history,
    imports,
    ls,
    predict,
    publish,
    rm,
    scan,
    show,
    verify,
)
from modelkeep.cli.exits import watched_output, with_exit_codes
from modelkeep.cli.options import KeepOption

app = typer.Typer(
    name="modelkeep",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Look after a keep: its runs, checkpoints and states.",
    epilog=(
        "A REF names a snapshot: run:NAME@last, @STEP, @epoch:N or @best:METRIC, model:NAME@NUMBER or @ALIAS, or the "
        "first digits of an id. "
        "The keep is --keep, else $MODELKEEP_KEEP, else ./keep. Each command's help lists its exit codes."
    ),
)

for module, name in (
    (ls, "ls"), (show, "show"), (cat, "cat"), (history, "history"), (adopt, "adopt"), (publish, "publish"),
    (imports, "import"), (export, "export"), (predict, "predict"), (alias, "alias"), (rm, "rm"),
    (scan, "scan"), (verify, "verify"), (gc, "gc"), (doctor, "doctor"), (demo, "demo"),
):  # fmt: skip
    app.command(name, help=module.HELP, epilog=module.EPILOG)(with_exit_codes(module.command))


def _print_version(wanted: bool) -> None:
    if wanted:
        from modelkeep.training.environment import version

        print(f"modelkeep {version()}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    *,
    keep: KeepOption = None,
    version: Annotated[  # noqa: ARG001  its callback has done it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself; ``--keep`` may stand here or behind a command, which looks for it here."""
    if keep is not None and context.invoked_subcommand == "demo":
        raise typer.BadParameter("the demo makes a keep of its own; say with --folder where", param_hint="--keep")


def main() -> None:
    """Run the command with the arguments of this process; ends it with a documented exit code."""
    with watched_output():
        app(prog_name="modelkeep")
