"""Both loss curves over each other, as a PNG."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

INK, PALE, RED = "#1b2a41", "#9ec5ff", "#d1495b"


def draw(whole: Sequence[float], killed: Sequence[float], kills: Sequence[int], path: Path) -> None:
    """Write the picture: loss per step of the whole run, of the killed one over it, and where the kills fell.

    Args:
        whole, killed: the loss of each step.
        kills: the step after which the killed run went on, for each kill.
        path: where the PNG goes.
    """
    figure = Figure(figsize=(10, 5.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        range(1, len(whole) + 1), whole, color=PALE, linewidth=7, solid_capstyle="round", label="never interrupted"
    )
    axes.plot(range(1, len(killed) + 1), killed, color=INK, linewidth=1.4, label=f"killed {len(kills)} times, resumed")
    top = max(whole)
    for number, step in enumerate(kills, 1):
        axes.axvline(step, color=RED, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"kill -9  #{number}",
            (step, top),
            xytext=(5, -4),
            textcoords="offset points",
            color=RED,
            fontsize=9,
            va="top",
            rotation=90,
        )
    same = list(whole) == list(killed)
    verdict = "every step, every weight: the same bits" if same else "THE RUNS DIFFER"
    axes.set_title(verdict, loc="left", fontsize=15, fontweight="bold", color=INK, pad=14)
    axes.set_xlabel("training step", color=INK)
    axes.set_ylabel("loss (mean of the epoch so far)", color=INK)
    axes.set_yscale("log")
    axes.grid(axis="y", color="#e6e9ef", which="both", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right", fontsize=11)
    figure.savefig(path)
