"""What a bench found, as bars: modelkeep, its peers and the physical limit, one panel for each table that has one."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import Report

_INK, _PALE, _OURS, _LIMIT, _PEER = "#1b2a41", "#6b7280", "#2a9d5c", "#9ec5ff", "#c9ced8"
_COLORS = {"ours": _OURS, "limit": _LIMIT}

_GROWTH = "many checkpoints"
"""In the title of the table that is drawn as lines: each column over the number of checkpoints."""

_PANELS = {
    "memory as retention leaves it": ("median, s", "save: seconds, ours durable and hashed"),
    "what training waits for": ("copies", "wait: added to training, in memory copies"),
    "page cache warm": ("median, s", "restore: seconds, ours with every byte checked"),
    "cold: files evicted": ("median, s", "restore from a cold disk: seconds"),
}
"""Words in the title of a table: the column that is drawn, and what it says above."""


_LINES_HEIGHT = 9
"""Of the panel of lines, in rows of bars."""


def draw(reports: Sequence[Report], measured: str, path: Path) -> bool:
    """Write a PNG of the tables that have a panel; False when there is none.

    Args:
        reports: the tables of a bench.
        measured: when, and on what machine.
        path: where the PNG goes.
    """
    panels = [(report, *panel) for words, panel in _PANELS.items() for report in reports if words in report.title]
    growing = [report for report in reports if _GROWTH in report.title]
    if not panels and not growing:
        return False
    rows = [max(len(report.rows), 4) for report, _, _ in panels] + [_LINES_HEIGHT] * len(growing)
    figure = Figure(figsize=(9, sum(count * 0.3 + 0.9 for count in rows)), dpi=130, layout="constrained")
    every = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[count + 2 for count in rows])[:, 0]
    for axes, (report, column, text) in zip(every, panels, strict=False):
        _bars(axes, report, report.columns.index(column), text)
    for axes, report in zip(every[len(panels) :], growing, strict=True):
        _lines(axes, report)
    figure.supxlabel(measured, fontsize=8, color=_PALE)
    figure.savefig(path)
    return True


def _lines(axes: Axes, report: Report) -> None:
    counts = [float(cells[0].replace(",", "")) for _, cells in report.rows]
    for column, name in enumerate(report.columns[1:-1], 1):
        values = [float(cells[column]) for _, cells in report.rows]
        axes.plot(counts, values, marker="o", color=_OURS if name == "ls" else _PALE, linewidth=1.8)
        axes.annotate(name, (counts[-1], values[-1]), (6, -3), textcoords="offset points", fontsize=9, color=_INK)
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(counts[0] * 0.9, counts[-1] * 2.5)
    axes.set_xticks(counts, [cells[0] for _, cells in report.rows], fontsize=9)
    axes.set_xticks([], minor=True)
    axes.set_title("growth: milliseconds over the number of checkpoints", loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(report.title, loc="left", fontsize=7.5, color=_PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)


def _bars(axes: Axes, report: Report, column: int, text: str) -> None:
    named = sorted(
        ((" · ".join(cells[: 1 if column == 1 else 2]), float(cells[column]), kind) for kind, cells in report.rows),
        key=lambda bar: -bar[1],
    )
    names, values, kinds = zip(*named, strict=True)
    bars = axes.barh(range(len(named)), values, color=[_COLORS.get(kind, _PEER) for kind in kinds], height=0.72)
    axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=4, fontsize=8.5, color=_INK)
    axes.set_yticks(range(len(named)), names, fontsize=9)
    for label, kind in zip(axes.get_yticklabels(), kinds, strict=True):
        label.set_color(_OURS if kind == "ours" else _INK)
        label.set_fontweight("bold" if kind == "ours" else "normal")
    axes.set_title(text, loc="left", fontsize=12, fontweight="bold", color=_INK)
    axes.set_xlabel(report.title, loc="left", fontsize=7.5, color=_PALE)
    axes.set_xlim(min(0.0, *values), max(values) * 1.12)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
