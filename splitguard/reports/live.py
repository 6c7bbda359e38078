# SPDX-License-Identifier: Apache-2.0
"""Charts as Plotly figures: for notebooks, and for the page where scripts run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from splitguard.reports.chart import NEUTRAL, Axis, Chart, Mark, Series

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["figure"]

GRID = "rgba(128, 136, 146, 0.22)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def figure(*charts: Chart, legend: bool = True) -> Figure:
    """One figure with the charts side by side; backgrounds are transparent, so it fits light and dark pages.

    Args:
        charts: one or more.
        legend: whether to show one; a name that occurs in several charts is listed once.
    """
    from plotly.graph_objects import Figure, Scatter

    out = Figure(layout=_layout(charts, legend))
    named: set[str] = set()
    for number, chart in enumerate(charts):
        for series in chart.series:
            trace = _trace(series, chart)
            trace["showlegend"] = legend and series.name not in named
            named.add(series.name)
            out.add_trace(Scatter(**trace, **_anchor(number)))
    return out


def _anchor(number: int) -> dict[str, str]:
    suffix = "" if number == 0 else str(number + 1)
    return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}


def _layout(charts: Sequence[Chart], legend: bool) -> dict[str, Any]:
    gap = 0.12
    width = (1 - gap * (len(charts) - 1)) / max(len(charts), 1)
    layout: dict[str, Any] = {
        "template": "none",
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {"family": FONT, "size": 13, "color": NEUTRAL},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12}},
        "margin": {"l": 56, "r": 16, "t": 40 if len(charts) > 1 else 16, "b": 60},
        "showlegend": legend,
        "legend": {"orientation": "h", "y": -0.22, "x": 0, "xanchor": "left"},
        "annotations": [],
    }
    for number, chart in enumerate(charts):
        suffix = "" if number == 0 else str(number + 1)
        left = number * (width + gap)
        layout[f"xaxis{suffix}"] = {**_axis(chart.x), "domain": [left, left + width], "anchor": f"y{suffix}"}
        layout[f"yaxis{suffix}"] = {**_axis(chart.y), "anchor": f"x{suffix}"}
        if len(charts) > 1:
            place = {"x": left, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "xref": "paper", "yref": "paper"}
            layout["annotations"].append({"text": f"<b>{_text(chart.title)}</b>", "showarrow": False, **place})
    return layout


def _axis(axis: Axis) -> dict[str, Any]:
    ticks = axis.ticks()
    return {
        "title": {"text": _text(axis.title), "standoff": 8, "font": {"size": 13}},
        "range": [axis.low, axis.high],
        "tickmode": "array",
        "tickvals": [value for value, _ in ticks],
        "ticktext": [_text(text) for _, text in ticks],
        "gridcolor": GRID,
        "linecolor": NEUTRAL,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": NEUTRAL,
        "automargin": True,
    }


def _trace(series: Series, chart: Chart) -> dict[str, Any]:
    marks = series.marks
    mode = "+".join(part for part, used in _parts(series) if used)
    trace: dict[str, Any] = {
        "name": _text(series.name),
        "x": [m.x for m in marks],
        "y": [m.y for m in marks],
        "mode": mode,
        "cliponaxis": False,
        "hoverinfo": "text" if any(m.hover for m in marks) else "skip",
        "hovertext": ["<br>".join(map(_text, m.hover)) for m in marks],
        "text": [_text(m.label) for m in marks],
        "textposition": [m.beside for m in marks],
        "textfont": {"size": 11},
    }
    if series.line is not None:
        trace["line"] = {"color": series.colour, "width": 1.5, "dash": series.line}
    if series.symbol is not None:
        shape = series.symbol + ("-open" if series.hollow else "")
        trace["marker"] = {"symbol": shape, "size": 9, "color": series.colour, "line": {"width": 1.5 * series.hollow}}
        trace["opacity"] = 0.6 if series.hollow else 1.0
    bar = {"color": series.colour, "thickness": 1, "width": 3}
    if any(m.y_low is not None for m in marks):
        trace["error_y"] = {**bar, **_errors(marks, "y", chart.y)}
    if any(m.x_low is not None for m in marks):
        trace["error_x"] = {**bar, **_errors(marks, "x", chart.x)}
    return trace


def _parts(series: Series) -> list[tuple[str, bool]]:
    return [
        ("lines", series.line is not None),
        ("markers", series.symbol is not None),
        ("text", any(m.label for m in series.marks)),
    ]


def _errors(marks: Sequence[Mark], along: str, axis: Axis) -> dict[str, Any]:
    """How far the intervals reach to either side, within the axis; None where there is none."""
    plus: list[float | None] = []
    minus: list[float | None] = []
    for mark in marks:
        value, low, high = (getattr(mark, along + end) for end in ("", "_low", "_high"))
        plus.append(None if high is None else max(min(high, axis.high) - value, 0))
        minus.append(None if low is None else max(value - max(low, axis.low), 0))
    return {"type": "data", "symmetric": False, "array": plus, "arrayminus": minus}


def _text(text: str) -> str:
    """Plotly reads tags in its texts; what a user names is no tag."""
    return escape(text, quote=False).replace("\n", "<br>")
