"""``modelkeep gc``: remove what nothing names."""

from typing import Annotated

import typer

from modelkeep.cli.exits import exit_codes
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, open_keep
from modelkeep.cli.output import print_json, print_table, shown_bytes

HELP = "List what no run and no snapshot names, and with --yes delete it; no run may be open then."
EPILOG = exit_codes(3, 4, 5, 6, 7)


def command(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is changed.")] = False,
    grace_hours: Annotated[
        float, typer.Option("--grace-hours", min=24.0, help="Leave what is younger: it may be of a save under way.")
    ] = 24.0,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Collect garbage."""
    opened = open_keep(keep)
    report = opened.gc(dry_run=not yes, grace=grace_hours * 3600)
    if as_json:
        removed = [{"key": one.key, "nbytes": one.nbytes, "reason": one.reason} for one in report.removed]
        print_json(
            {
                "keep": opened.url,
                "dry_run": report.dry_run,
                "nbytes": report.nbytes,
                "kept_young": report.kept_young,
                "removed": removed,
            }
        )
        return
    if quiet:
        for one in report.removed:
            print(one.key)
        return
    if report.removed:
        rows = [(one.key, shown_bytes(one.nbytes), one.reason) for one in report.removed]
        print_table(opened.url, ("object", "size", "why"), rows, right={"size"})
    count = len(report.removed)
    what = f"{count} object{'' if count == 1 else 's'}, {shown_bytes(report.nbytes)}"
    if report.kept_young:
        print(f"{report.kept_young} younger than {grace_hours:g} hours stay")
    if yes:
        print(f"deleted {what}")
    elif report.removed:
        print(f"would delete {what}; --yes does it")
    else:
        print("nothing to delete")
