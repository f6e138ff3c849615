"""Measure what modelkeep costs: ``make bench``, or ``python -m bench.run --only durable restore --rounds 5``."""

import argparse
import importlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import picture
from bench.report import Report, machine
from bench.settings import Settings
from bench.worker import WorkerDied

BENCHES = (
    "durable", "waiting", "incremental", "restore", "overhead", "scale", "bucket", "models", "predict", "startup",
)  # fmt: skip
"""Each is a module with ``run(settings) -> list[Report]``."""

_WIDTH = 140  # of tables that go to a file


def main(arguments: list[str]) -> None:
    """Measure, print the tables, and write them as JSON when asked to."""
    options = _options(arguments)
    progress = Console(stderr=True)
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    quick = bool(options.quick)
    mib = options.size or (4 if quick else 1024)
    settings = Settings(
        size=mib << 20,
        rounds=options.rounds or (2 if quick else 9),
        quick=quick,
        told=lambda text: progress.print(text, end="\r\n" if not progress.is_terminal else "\x1b[K\r", highlight=False),
    )
    measured = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {machine()}"
    console.print(f"{measured}\n", highlight=False)
    reports: list[Report] = []
    failed: list[str] = []
    for name in options.only or BENCHES:
        try:
            found = importlib.import_module(f"bench.{name}").run(settings)
        except WorkerDied as error:
            failed.append(f"{name}: {error}")
            continue
        for report in found:
            report.shown(console)
        reports += found
    if options.json:
        document = {"measured": measured, "reports": [report.to_json() for report in reports]}
        Path(options.json).write_text(json.dumps(document, indent=1))
    if picture.draw(reports, measured, Path(options.picture)):
        console.print(f"the picture is {options.picture}", highlight=False)
    if failed:
        sys.exit("\n".join(f"bench: {text}" for text in failed))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few MB and two rounds: shows that it works, no more")
    parser.add_argument("--size", type=int, metavar="MIB", help="MiB of a state (1024)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds that count (9)")
    parser.add_argument("--only", nargs="+", choices=BENCHES, metavar="BENCH", help=f"of {', '.join(BENCHES)}")
    parser.add_argument("--json", metavar="FILE", help="write the tables to FILE too")
    parser.add_argument("--picture", metavar="FILE", default="bench.png", help="the bars, as a PNG (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
