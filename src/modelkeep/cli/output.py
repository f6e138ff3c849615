"""How results are shown: tables on a terminal, plain columns in a pipe, JSON on request."""

import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from modelkeep.cli.exits import printable

KIBI = 1024


def is_terminal() -> bool:
    """Whether a person reads what is printed."""
    return sys.stdout.isatty()


def print_json(value: Any) -> None:
    """Print one JSON document; what JSON has no number for becomes null."""
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()
) -> None:
    """Print rows of text: a table on a terminal, else columns two spaces apart, with nothing cut off.

    Args:
        title: shown on a terminal only.
        columns: their names.
        rows: cells, as many as there are columns.
        right: the columns whose cells are numbers.
    """
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    aligned = set(right)
    if is_terminal():
        _print_rich(title, columns, cells, aligned)
        return
    widths = [max(len(column), *(len(row[index]) for row in cells), 0) for index, column in enumerate(columns)]
    for line in [list(columns), *cells]:
        padded = [
            cell.rjust(width) if column in aligned else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _print_rich(title: str, columns: Sequence[str], rows: list[list[str]], right: set[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title), "bold"), title_justify="left", box=SIMPLE_HEAD, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
    Console().print(table)


_STYLES = {"running": "bold cyan", "finished": "green", "interrupted": "yellow", "damaged": "bold red", "no": "yellow"}


def print_gap() -> None:
    """Print what parts two tables: an empty line, which a terminal's tables bring along."""
    if not is_terminal():
        print()


def shown_bytes(count: int) -> str:
    """A size for people.

    >>> shown_bytes(2_500_000)
    '2.4 MiB'
    """
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < KIBI:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= KIBI
    return f"{size:.1f} TiB"


def shown_number(value: float | None) -> str:
    """A metric for people; nothing for None.

    >>> shown_number(0.123456789), shown_number(None)
    ('0.12346', '')
    """
    return "" if value is None else f"{value:.5g}"


def shown_time(seconds: float | None) -> str:
    """A moment in the local time zone; nothing for None."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def shown_metrics(metrics: Any) -> str:
    """Metrics in one cell."""
    return ", ".join(f"{name} {shown_number(value)}" for name, value in metrics.items())


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
