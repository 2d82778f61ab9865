"""A plan as a picture: the bytes alive over the time of a step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from memograd.errors import DataError
from memograd.memory.problem import Usage
from memograd.memory.scheduled import Scheduled

_GREY, _BLUE, _ORANGE, _BLACK = "#9ca3af", "#2563eb", "#d97706", "#111827"


def draw(plan: Scheduled, path: str | Path) -> None:
    """The step without a plan, the planned one and the budget; the operators' own time is the horizontal axis.

    Raises:
        DataError: matplotlib is missing, or does not know the ending of ``path``.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError("a plot needs matplotlib: pip install 'memograd[data]'") from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    top = max(plan.unplanned_bytes, plan.peak_bytes, plan.budget)
    scale, unit = next(((s, u) for s, u in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")) if top >= s), (1, "bytes"))
    for label, schedule, usage, color in (
        ("without a plan", plan.unplanned, plan.unplanned_usage, _GREY),
        ("planned", plan.schedule, plan.usage, _BLUE),
    ):
        edges = _times(plan, schedule)
        axes.stairs([b / scale for b in usage.profile], edges, label=label, color=color, linewidth=1.2, baseline=None)
        axes.plot(_middle(edges, usage), usage.peak / scale, "o", color=color, markersize=4)
    spans = _recomputed(plan)
    if spans:
        axes.broken_barh(spans, (0, 0.025 * top / scale), color=_ORANGE, linewidth=0, label="computing again")
    axes.axhline(plan.budget / scale, color=_BLACK, linestyle="--", linewidth=1, label="budget")
    axes.axhline(plan.problem.resident / scale, color=_GREY, linestyle=":", linewidth=1, label="there all the time")
    axes.set(xlabel="operators' time, ms", ylabel=f"{unit} alive", ylim=(0, None), xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:  # an ending that is no format of pictures
        raise DataError(f"cannot draw {path}: {error}") from error


def _times(plan: Scheduled, schedule: Sequence[int]) -> list[float]:
    """Milliseconds at which each operator starts, and the end."""
    return list(accumulate((1e3 * plan.problem.cost[k] for k in schedule), initial=0.0))


def _middle(edges: Sequence[float], usage: Usage) -> float:
    """The middle of the operator at the peak."""
    return (edges[usage.at] + edges[min(usage.at + 1, len(edges) - 1)]) / 2


def _recomputed(plan: Scheduled) -> list[tuple[float, float]]:
    """(start, length) of every run that is not the first of its operator."""
    computed: set[int] = set()
    spans = []
    for k, start in zip(plan.schedule, _times(plan, plan.schedule), strict=False):
        if k in computed:
            spans.append((start, 1e3 * plan.problem.cost[k]))
        computed.add(k)
    return spans
