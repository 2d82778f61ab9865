"""Curves of a run as one SVG: loss, gain of each layer, updates, dead units. Drawn here, without a plotting library."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH, _HEIGHT, _GAP = 420, 240, 24  # of a panel, and between panels
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 120, 34, 30  # inside a panel, around its plot
_NAMED = 8  # lines whose names stand beside them
_DECADES = 16  # of a logarithmic axis at most: what lies below is drawn at its edge
_STYLE = """
.panel{fill:#fff;stroke:#d4d4d8}.grid{stroke:#e4e4e7;stroke-width:1}.line{fill:none;stroke-width:1.6}
.title{font-weight:600;font-size:13px}.tick{font-size:10px;fill:#52525b}.name{font-size:10px}
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#18181b}
"""


@dataclass(frozen=True)
class Panel:
    """One diagram: lines by name, each with a number for each step (None where it has none)."""

    title: str
    lines: Mapping[str, Sequence[float | None]]
    logarithmic: bool = False
    percent: bool = False


def panels(frames: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """The diagrams of a run; those without a line are left out."""

    def of(key: str) -> dict[str, list[float | None]]:
        names = dict.fromkeys(name for frame in frames for name in frame[key])
        return {name: [frame[key].get(name) for frame in frames] for name in names}

    every = [
        Panel("Loss", {"loss": [frame["loss"] for frame in frames]}),
        Panel("Norm of the adjoint, layer by layer", of("gains"), logarithmic=True),
        Panel("Update, as a share of the weight", of("updates"), logarithmic=True),
        Panel("Dead units", of("dead"), percent=True),
    ]
    return [p for p in every if any(_finite(line) for line in p.lines.values())]


def svg(frames: Sequence[Mapping[str, Any]]) -> str:
    """The picture; empty where there is no step."""
    diagrams = panels(frames)
    if not diagrams:
        return ""
    columns = min(2, len(diagrams))
    rows = -(-len(diagrams) // columns)
    width, height = columns * (_WIDTH + _GAP) - _GAP, rows * (_HEIGHT + _GAP) - _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="Curves of a run of {len(frames)} steps"><style>{_STYLE}</style>'
    ]
    for k, panel in enumerate(diagrams):
        x, y = k % columns * (_WIDTH + _GAP), k // columns * (_HEIGHT + _GAP)
        parts.append(f'<g transform="translate({x},{y})">{_drawn(panel, len(frames))}</g>')
    return "".join([*parts, "</svg>"])


def _drawn(panel: Panel, steps: int) -> str:
    low, high = _range(panel)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def across(k: int) -> float:
        return _LEFT + (right - _LEFT) * (k / max(steps - 1, 1))

    def up(value: float) -> float:
        shown = _scaled(value, panel.logarithmic, low)
        return bottom - (bottom - _TOP) * (min(max(shown, low), high) - low) / (high - low)

    parts = [
        f'<rect class="panel" x=".5" y=".5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" rx="6"/>',
        f'<text class="title" x="12" y="21">{html.escape(panel.title)}</text>',
    ]
    # as many digits as it takes to tell two ticks apart
    digits = max(3, 2 + math.ceil(math.log10(max(abs(low), abs(high), 1e-30) / (high - low))))
    for tick in _ticks(low, high, panel.logarithmic):
        y = bottom - (bottom - _TOP) * (tick - low) / (high - low)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 3:.1f}" text-anchor="end">{_label(tick, panel, digits)}</text>'
        )
    for k in sorted({0, (steps - 1) // 2, steps - 1}):
        parts.append(f'<text class="tick" x="{across(k):.1f}" y="{bottom + 14}" text-anchor="middle">{k}</text>')
    named: list[tuple[float, str, str]] = []
    for k, (name, line) in enumerate(panel.lines.items()):
        points = [(across(i), up(v)) for i, v in enumerate(line) if v is not None and math.isfinite(v)]
        if not points:
            continue
        color = _color(k, len(panel.lines))
        parts.append(_line(points, color, name))
        named.append((points[-1][1], name, color))
    return "".join([*parts, *_names(named, right + 8)])


def _line(points: list[tuple[float, float]], color: str, name: str) -> str:
    """A line, or a dot where there is one point alone."""
    title = f"<title>{html.escape(name)}</title>"
    if len(points) == 1:
        [(x, y)] = points
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}">{title}</circle>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line" stroke="{color}" points="{path}">{title}</polyline>'


def _names(named: list[tuple[float, str, str]], x: int) -> list[str]:
    """Names beside the ends of lines, pushed apart; of many lines only of some, the outermost among them."""
    if len(named) > _NAMED:
        labelled = {round(k * (len(named) - 1) / (_NAMED - 1)) for k in range(_NAMED)}
        named = [one for k, one in enumerate(named) if k in labelled]
    ordered = sorted(named)
    places: list[float] = []
    for y, _, _ in ordered:
        places.append(max(y, places[-1] + 12) if places else max(y, _TOP))
    over = max(0.0, places[-1] - (_HEIGHT - _BOTTOM + 4)) if places else 0.0
    shown = []
    for (_, name, color), y in zip(ordered, places, strict=True):
        text = name if len(name) <= 18 else f"…{name[-17:]}"
        shown.append(
            f'<text class="name" x="{x}" y="{y - over + 3:.1f}" style="fill:{color}">{html.escape(text)}</text>'
        )
    return shown


def _color(k: int, total: int) -> str:
    """From blue (the first layer) to orange (the last one), dark enough to be read as text."""
    share = k / max(total - 1, 1)
    return f"hsl({215 - 190 * share:.0f},{70:.0f}%,{38 if share < 0.7 else 42}%)"


def _finite(line: Sequence[float | None]) -> list[float]:
    return [v for v in line if v is not None and math.isfinite(v)]


def _range(panel: Panel) -> tuple[float, float]:
    if panel.percent:
        return 0.0, 1.0
    values = [v for line in panel.lines.values() for v in _finite(line)]
    if panel.logarithmic:
        positive = [math.log10(v) for v in values if v > 0] or [0.0]
        high = math.ceil(max(positive) + 1e-9)
        return float(max(math.floor(min(positive)), high - _DECADES)), float(high)
    low, high = min(values), max(values)
    low = min(low, 0.0) if low < 0.5 * high else low
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _scaled(value: float, logarithmic: bool, low: float) -> float:
    if not logarithmic:
        return value
    return math.log10(value) if value > 0 else low


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    if logarithmic:
        step = max(1, round((high - low) / 4))
        return [float(t) for t in range(int(low), int(high) + 1, step)]
    return [low + (high - low) * k / 4 for k in range(5)]


def _label(tick: float, panel: Panel, digits: int = 3) -> str:
    if panel.logarithmic:
        return f"1e{int(tick)}" if abs(tick) > 2 else f"{10**tick:g}"
    return f"{tick:.0%}" if panel.percent else f"{tick:.{digits}g}"
