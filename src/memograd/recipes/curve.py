"""The loss curve as a picture for people: ``curve.svg`` and ``curve.png``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREY = "#2563eb", "#d97706", "#6b7280"


def draw(
    folder: Path,
    title: str,
    steps: Sequence[float],
    losses: Sequence[float],
    validation: Sequence[float] | None = None,
    accuracies: Sequence[float] | None = None,
    xlabel: str = "epoch",
) -> list[str]:
    """Draw into ``folder``; returns the names of the files, none when matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return []
    with matplotlib.rc_context({"svg.hashsalt": "memograd", "font.size": 11}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        marker = "o" if len(steps) <= 50 else None
        axes.plot(steps, losses, color=BLUE, marker=marker, markersize=4, label="training loss")
        if validation:
            axes.plot(steps, validation, color=ORANGE, marker=marker, markersize=4, label="test loss")
        axes.set(title=title, xlabel=xlabel, ylabel="loss", ylim=(0, None))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if accuracies:
            _on_the_right(axes, steps, accuracies)
        if len(figure.axes) > 1 or validation:
            figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(folder / "curve.svg", metadata={"Date": None})
        figure.savefig(folder / "curve.png", dpi=150)
    return ["curve.svg", "curve.png"]


def _on_the_right(axes: Any, steps: Sequence[float], accuracies: Sequence[float]) -> None:
    """Accuracies with an axis of their own, the last one in words."""
    right = axes.twinx()
    right.plot(steps, [100 * a for a in accuracies], color=GREY, linestyle="--", label="test accuracy")
    right.set_ylabel("test accuracy, %")
    right.spines["top"].set_visible(False)
    last = 100 * accuracies[-1]
    place = {"xytext": (0, 6), "textcoords": "offset points", "ha": "right"}
    right.annotate(f"{last:.1f}%", (steps[-1], last), **place, color=GREY)
