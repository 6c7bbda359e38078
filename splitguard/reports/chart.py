# SPDX-License-Identifier: Apache-2.0
"""A chart as plain data: what `live` draws with Plotly and `still` as SVG, so that both show the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["NEUTRAL", "PALETTE", "SYMBOLS", "Axis", "Chart", "Mark", "Series", "colours", "nice_ticks"]

#: Each has a contrast of at least 3:1 on white and on the dark page; neighbours differ for colour-blind readers too.
PALETTE = ("#3579d0", "#d06a10", "#1a936f", "#b655b0", "#c08400", "#5f6fd9", "#d1495b", "#0f93a8", "#8a7036")
#: For what is not defended, and for lines that are no data.
NEUTRAL = "#78818c"
#: Marker shapes that both renderers know.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")


@dataclass(frozen=True)
class Mark:
    """One point.

    Attributes:
        x: a number, or the position of a category.
        y: a number; what is missing has no mark.
        label: a short text beside it.
        beside: where that stands, as Plotly says it; `dodge.spread` chooses.
        hover: lines that explain it.
        x_low, x_high, y_low, y_high: ends of the intervals, each pair given or None.
    """

    x: float
    y: float
    label: str = ""
    beside: str = "top right"
    hover: tuple[str, ...] = ()
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None


@dataclass(frozen=True)
class Series:
    """Marks that look alike.

    Attributes:
        name: for the legend.
        marks: in the order in which a line joins them.
        colour: as in ``"#3579d0"``.
        symbol: one of `SYMBOLS`; None draws the line alone.
        hollow: drawn as an outline, as what nobody would deploy is.
        line: None, ``solid`` or ``dash``.
    """

    name: str
    marks: tuple[Mark, ...]
    colour: str = NEUTRAL
    symbol: str | None = "circle"
    hollow: bool = False
    line: str | None = None


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: with the unit, and which direction is better.
        low, high: its range.
        percent: whether 0.5 is written as 50 %.
        categories: names at 0, 1, 2, ... in place of numbers; may have several lines.
    """

    title: str
    low: float
    high: float
    percent: bool = False
    categories: tuple[str, ...] = ()

    def ticks(self) -> list[tuple[float, str]]:
        """Where it is labelled, and with what."""
        if self.categories:
            return [(float(i), name) for i, name in enumerate(self.categories)]
        values, scale = nice_ticks(self.low, self.high), 100 if self.percent else 1
        step = scale * (values[1] - values[0]) if len(values) > 1 else 1.0
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(v, f"{scale * v + 0.0:.{digits}f}" + (" %" if self.percent else "")) for v in values]


@dataclass(frozen=True)
class Chart:
    """One panel.

    Attributes:
        name: a word, for ids.
        title: what it shows.
        x, y: its axes.
        series: drawn in this order.
        alt: what a reader who cannot see it must know, in a sentence.
        note: what it cannot show.
    """

    name: str
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...] = field(default=())
    alt: str = ""
    note: str = ""


def nice_ticks(low: float, high: float, *, wanted: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within the range, about as many as wanted.

    >>> nice_ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(wanted - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.75 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def colours(names: Iterable[str], *, neutral: Sequence[str] = ()) -> dict[str, str]:
    """A colour for each name, in order of appearance; the palette starts again where it ends."""
    out = dict.fromkeys(neutral, NEUTRAL)
    for name in names:
        if name not in out:
            out[name] = PALETTE[(len(out) - len(neutral)) % len(PALETTE)]
    return out
