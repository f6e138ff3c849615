"""``modelkeep history``: the metrics of a run, row by row; or the moves of an alias."""

from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli.exits import exit_codes, tell_damage
from modelkeep.cli.models import show_moves
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_names, find_run, is_model, open_keep
from modelkeep.cli.output import is_terminal, print_json, print_table, shown_number, shown_time

if TYPE_CHECKING:
    from modelkeep.store import MetricRow

HELP = "Show the metrics of a run (rows that a resume computed again are superseded), or where MODEL@ALIAS has pointed."
EPILOG = exit_codes(3, 4, 5, 7)

_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 60


def command(
    run: Annotated[
        str, typer.Argument(metavar="NAME", autocompletion=complete_names, help="A run, or an alias MODEL@ALIAS.")
    ],
    *,
    current: Annotated[bool, typer.Option("--current", help="Leave superseded rows out.")] = False,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show metrics."""
    from modelkeep.values import Ref

    opened = open_keep(keep)
    if "@" in run and is_model(opened, run.partition("@")[0]):
        show_moves(opened, Ref.parse(run), as_json=as_json, quiet=quiet)
        return
    record = find_run(opened, run)
    damages: list[str] = []
    found = record.metrics(on_damage=lambda _, error: damages.append(str(error)))
    rows = [row for row in found if not (current and row.superseded)]
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    if as_json:
        print_json({"keep": opened.url, "run": record.name, "rows": [_document(row) for row in rows]})
    elif quiet:
        for name in names:
            print(name)
    elif rows:
        _print(record.name, names, rows)
    elif not damages:
        print(f"run {record.name} has no metrics yet")
    tell_damage(damages)


def _print(run: str, names: list[str], rows: "list[MetricRow]") -> None:
    cells = [
        (
            str(row.epoch),
            str(row.step),
            *(shown_number(row.values.get(name)) for name in names),
            str(row.attempt),
            shown_time(row.time),
            "superseded" if row.superseded else "",
        )
        for row in rows
    ]
    numbers = {"epoch", "step", "attempt", *names}
    print_table(f"run {run}", ("epoch", "step", *names, "attempt", "time", ""), cells, right=numbers)
    if is_terminal():
        _print_sparks(names, [row for row in rows if not row.superseded])


def _document(row: "MetricRow") -> dict[str, object]:
    return {
        "attempt": row.attempt,
        "step": row.step,
        "epoch": row.epoch,
        "time": row.time,
        "values": dict(row.values),
        "superseded": row.superseded,
    }


def _print_sparks(names: list[str], rows: "list[MetricRow]") -> None:
    """A line of bars for each metric, from its least to its greatest value."""
    width = max(len(name) for name in names)
    for name in names:
        line = spark([row.values[name] for row in rows if name in row.values])
        if line:
            print(f"  {name:<{width}}  {line}")


def spark(values: list[float]) -> str:
    """Return the values as bars, at most 60; empty where fewer than two of them are numbers.

    >>> spark([1.0, 2.0, 4.0])
    '▁▃█'
    """
    import math

    every = max(1, math.ceil(len(values) / _SPARKS))
    thinned = values[::every]
    finite = [value for value in thinned if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[int((value - low) * scale)] if math.isfinite(value) else "?" for value in thinned)
