"""``modelkeep scan``: what a foreign file would do if it were loaded by its own library."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli.exits import exit_codes, printable
from modelkeep.cli.options import JsonOption, QuietOption
from modelkeep.cli.output import print_gap, print_json, print_table

if TYPE_CHECKING:
    from modelkeep.scan import ScanReport

HELP = "Say what a file, or each file of a folder, would do if its own library loaded it. Nothing is loaded."
EPILOG = exit_codes(3, 4, 5, 7, 9, 10)

_SUMMARIES = {
    "clean": "nothing in it runs code, opens other files or hides anything",
    "unsafe": "unsafe: loading it runs code, opens or writes what it names, or uses up the memory",
    "suspicious": "suspicious: it is not what it says, or holds what cannot be judged",
    "damaged": "damaged: a part cannot be read, and nothing unsafe was found in the rest",
    "limit": "not judged: a part asks for more than the budget, and nothing unsafe was found in the rest",
}


def command(
    path: Annotated[str, typer.Argument(metavar="FILE", help="A file or a folder, of any format.")],
    *,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Scan a file or folder."""
    from modelkeep.scan import scan

    report = scan(path)
    if as_json:
        print_json({**asdict(report), "verdict": report.verdict})
    elif quiet:
        for where in dict.fromkeys(one.where for one in report.findings):
            print(printable(where))
    else:
        _print(report)
    code = _exit_code(report)
    if code:
        raise typer.Exit(code)


def _exit_code(report: "ScanReport") -> int:
    from modelkeep.errors import Damaged, LimitExceeded, Unsafe

    codes = {"clean": 0, "damaged": Damaged.exit_code, "limit": LimitExceeded.exit_code}
    return codes.get(report.verdict, Unsafe.exit_code)


def _print(report: "ScanReport") -> None:
    files = f"{report.files} file{'' if report.files == 1 else 's'} and members"
    print(printable(f"{report.path} ({report.kind}, {files}): {_SUMMARIES[report.verdict]}"))
    if not report.findings:
        return
    print_gap()
    rows = [(one.severity, one.where, one.what, one.why) for one in report.findings]
    print_table("found", ("severity", "where", "what", "why"), rows)
    print_gap()
    for way in dict.fromkeys(one.way_out for one in report.findings):
        print(f"what to do: {printable(way)}")
