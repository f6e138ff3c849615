"""What a bench found, as tables that a person reads and JSON that a script reads."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.contest import Result

_STYLE = {"ours": "bold green", "limit": "cyan", "control": "dim", "peer": ""}


@dataclass(slots=True)
class Report:
    """One table: a header, rows of text, each with the kind of its contender, and remarks below."""

    title: str
    columns: Sequence[str]
    rows: list[tuple[str, list[str]]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, kind: str, *cells: str) -> None:
        """Append a row."""
        self.rows.append((kind, list(cells)))

    def shown(self, console: Console) -> None:
        """Print the table."""
        table = Table(title=self.title, title_justify="left", title_style="bold", caption_justify="left")
        for index, name in enumerate(self.columns):
            table.add_column(name, justify="left" if index == 0 else "right")
        for kind, cells in self.rows:
            table.add_row(*cells, style=_STYLE.get(kind, ""))
        table.caption = "\n".join(self.remarks)
        console.print(table)
        console.print()

    def to_json(self) -> dict[str, object]:
        """The table as JSON."""
        rows = [{"kind": kind, **dict(zip(self.columns, cells, strict=True))} for kind, cells in self.rows]
        return {"title": self.title, "rows": rows, "remarks": self.remarks}


def compared(title: str, results: Sequence[Result], base: Result, *, unit: str = "s", scale: float = 1.0) -> Report:
    """A table of costs with each one's ratio to ``base``, cheapest first."""
    report = Report(title, ["what", f"median, {unit}", "noise", "rounds", f"x {base.contender.name}"])
    for result in sorted(results, key=lambda one: one.middle):
        report.add(
            result.contender.kind,
            result.contender.name,
            f"{result.middle * scale:.3g}",
            f"±{result.spread:.0%}",
            str(len(result.costs)),
            f"{result.ratio(base):.2f}",
        )
    return report


def machine() -> str:
    """What it was measured on, in one line."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    gib = f"{memory[0] / (1 << 20):.0f} GiB" if memory else "unknown memory"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    kernel = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} x {names[0] if names else platform.machine()}, {gib}, {kernel}, load {load}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
