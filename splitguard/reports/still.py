# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG: on paper, where scripts do not run, and until they have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape

from splitguard.reports.chart import PALETTE, Axis, Chart, Mark, Series

__all__ = ["gauge", "svg", "swatch"]

WIDTH, HEIGHT = 560, 400
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 14, 62
SIZE = 4.5
Scale = Callable[[float], float]


def svg(chart: Chart) -> str:
    """The chart as one ``<svg>`` element; text and axes take the colour of the text around it."""
    across, down = _scale(chart.x, LEFT, WIDTH - RIGHT), _scale(chart.y, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg class="still" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.alt or chart.title)}" '
        'xmlns="http://www.w3.org/2000/svg" font-size="12" fill="currentColor">',
        *_axes(chart, across, down),
    ]
    for series in chart.series:
        parts += _series(series, chart, across, down)
    return "\n".join([*parts, "</svg>"])


def _scale(axis: Axis, start: float, end: float) -> Scale:
    span = axis.high - axis.low

    def place(value: float) -> float:
        inside = min(max(value, axis.low), axis.high)
        return start + (inside - axis.low) / span * (end - start)

    return place


def _axes(chart: Chart, across: Scale, down: Scale) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value, text in chart.y.ticks():
        y = down(value)
        yield f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" stroke-opacity=".14"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    for value, text in chart.x.ticks():
        x = across(value)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="currentColor" stroke-opacity=".14"/>'
        for number, line in enumerate(text.split("\n")):
            yield f'<text x="{x:.1f}" y="{bottom + 18 + 14 * number}" text-anchor="middle">{escape(line)}</text>'
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="currentColor" stroke-opacity=".6"/>'
    middle = (LEFT + right) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(chart.x.title)}</text>'
    centre = (TOP + bottom) / 2
    yield f'<text transform="translate(14 {centre}) rotate(-90)" text-anchor="middle">{escape(chart.y.title)}</text>'


def _series(series: Series, chart: Chart, across: Scale, down: Scale) -> Iterator[str]:
    if series.line is not None and series.marks:
        path = "L".join(f"{across(m.x):.1f} {down(m.y):.1f}" for m in series.marks)
        dash = ' stroke-dasharray="5 4"' if series.line == "dash" else ""
        yield f'<path d="M{path}" fill="none" stroke="{series.colour}" stroke-width="1.5"{dash}/>'
    if series.symbol is None:
        return
    for mark in series.marks:
        x, y = across(mark.x), down(mark.y)
        yield f'<g stroke="{series.colour}" opacity="{0.6 if series.hollow else 1}">'
        if mark.hover:
            yield f"<title>{escape(chr(10).join(mark.hover))}</title>"
        yield from _bars(mark, x, y, across, down)
        fill = "none" if series.hollow else series.colour
        yield f'<path d="{_shape(series.symbol, x, y)}" fill="{fill}" stroke-width="1.5"/>'
        if mark.label:
            yield _label(mark, x, y)
        yield "</g>"


def _bars(mark: Mark, x: float, y: float, across: Scale, down: Scale) -> Iterator[str]:
    if mark.y_low is not None and mark.y_high is not None:
        yield f'<path d="M{x:.1f} {down(mark.y_low):.1f}V{down(mark.y_high):.1f}" fill="none"/>'
    if mark.x_low is not None and mark.x_high is not None:
        yield f'<path d="M{across(mark.x_low):.1f} {y:.1f}H{across(mark.x_high):.1f}" fill="none"/>'


def _label(mark: Mark, x: float, y: float) -> str:
    above, _, side = mark.beside.partition(" ")
    place, anchor = {"right": (x + 6, "start"), "left": (x - 6, "end"), "center": (x, "middle")}[side]
    height = {"top": y - 6, "middle": y + 4, "bottom": y + 14}[above]
    where = f'x="{place:.1f}" y="{height:.1f}" text-anchor="{anchor}"'
    return f'<text {where} font-size="10.5" stroke="none">{escape(mark.label)}</text>'


def _shape(symbol: str, x: float, y: float) -> str:
    """An outline around (x, y)."""
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "triangle-up": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
        "x": [
            (r * math.cos(a), r * math.sin(a))
            for a, r in ((i * math.pi / 4, 0.6 if i % 2 == 0 else 1.4) for i in range(8))
        ],
    }.get(symbol)
    if corners is None:
        return f"M{x - SIZE:.1f} {y:.1f}a{SIZE} {SIZE} 0 1 0 {2 * SIZE} 0a{SIZE} {SIZE} 0 1 0 {-2 * SIZE} 0z"
    points = "L".join(f"{x + SIZE * a:.1f} {y + SIZE * b:.1f}" for a, b in corners)
    return f"M{points}z"


def swatch(series: Series) -> str:
    """A sample of how a series looks, for a legend beside the chart."""
    out = ['<svg width="26" height="16" viewBox="0 0 26 16" aria-hidden="true">']
    if series.line is not None:
        dash = ' stroke-dasharray="5 4"' if series.line == "dash" else ""
        out.append(f'<path d="M1 8H25" fill="none" stroke="{series.colour}" stroke-width="1.5"{dash}/>')
    if series.symbol is not None:
        fill = "none" if series.hollow else series.colour
        out.append(
            f'<path d="{_shape(series.symbol, 13, 8)}" fill="{fill}" stroke="{series.colour}" stroke-width="1.5"/>'
        )
    return "".join([*out, "</svg>"])


def gauge(
    share: float,
    low: float | None,
    high: float | None,
    *,
    chance: float,
    bound: float | None,
    words: tuple[str, str] = ("chance", "bound"),
) -> str:
    """A share in 0..1 with its interval, between chance (dotted) and what is possible at most (a line).

    ``words`` are what the two are called where they are read aloud.
    """

    def x(value: float) -> str:
        return f"{2 + 172 * min(max(value, 0.0), 1.0):.1f}"

    said, between = f"{share:.2f}, ", ""
    if low is not None and high is not None:
        said += f"interval {low:.2f} to {high:.2f}, "
        between = f'<path d="M{x(low)} 12H{x(high)}" stroke="currentColor" stroke-width="1.2"/>'
    said += f"{words[0]} {chance:.2f}, " + (f"no {words[1]}" if bound is None else f"{words[1]} {bound:.2f}")
    limit = f'<path d="M{x(bound)} 1V23" stroke="currentColor" stroke-width="2"/>' if bound is not None else ""
    return (
        f'<svg class="gauge" viewBox="0 0 176 24" role="img" aria-label="{said}" fill="none">'
        '<path d="M2 12H174" stroke="currentColor" stroke-opacity=".18" stroke-width="8"/>'
        f'<path d="M2 12H{x(share)}" stroke="{PALETTE[0]}" stroke-width="8"/>{between}'
        f'<path d="M{x(chance)} 3V21" stroke="currentColor" stroke-dasharray="2 2"/>{limit}</svg>'
    )
