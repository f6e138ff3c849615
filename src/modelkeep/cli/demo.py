"""``modelkeep demo``: a training that is killed three times and ends with the same bits."""

from pathlib import Path
from typing import Annotated

import typer

from modelkeep.cli.exits import exit_codes

HELP = "Train, kill, resume, compare bit for bit, damage a byte, and draw it. Needs Keras, scikit-learn, matplotlib."
EPILOG = exit_codes(1, 2, 7, 8)


def command(
    folder: Annotated[
        Path, typer.Option("--folder", metavar="FOLDER", help="Where the keep and the picture are left.")
    ] = Path("demo-out"),
) -> None:
    """Run the demonstration."""
    from modelkeep.errors import NotExact, UsageError

    try:
        from modelkeep.demo import main
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the demo needs {error.name}, which is not installed; `pip install modelkeep[demo]` brings it"
        ) from None
    if not main(folder):
        raise NotExact("the demo's two trainings differ; see above, and please report it")
