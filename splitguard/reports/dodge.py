# SPDX-License-Identifier: Apache-2.0
"""Puts the labels of crowded marks where they cover each other least; marks in one place share one label."""

from __future__ import annotations

from dataclasses import replace

from splitguard.reports.chart import Axis, Chart, Mark

__all__ = ["label_box", "spread"]

#: From the first choice to the last: the side of the mark, and how far below its middle the label's lies, in pixels.
PLACES = {
    "top right": (1, -9),
    "bottom right": (1, 10),
    "top left": (-1, -9),
    "bottom left": (-1, 10),
    "top center": (0, -13),
    "bottom center": (0, 14),
    "middle right": (1, 0),
    "middle left": (-1, 0),
}
#: The size of a panel on a phone, where it is tightest, and what a mark and a character take, in pixels.
WIDTH, HEIGHT, MARK, CHARACTER, LINE = 300, 250, 9, 6.5, 12
Box = tuple[float, float, float, float]


def spread(chart: Chart) -> Chart:
    """The chart with each label where it covers the least of marks and labels so far, and leaves the panel least."""
    chart = _shared(chart)
    middles = {id(m): _middle(m, chart) for s in chart.series if s.symbol for m in s.marks}
    taken: list[Box] = [(x, y, MARK, MARK) for x, y in middles.values()]

    def placed(mark: Mark) -> Mark:
        if not mark.label or id(mark) not in middles:
            return mark
        x, y = middles[id(mark)]
        boxes = {where: label_box(x, y, mark.label, where) for where in PLACES}
        best = min(boxes, key=lambda where: _hidden(boxes[where], taken))
        taken.append(boxes[best])
        return replace(mark, beside=best)

    return replace(chart, series=tuple(replace(s, marks=tuple(map(placed, s.marks))) for s in chart.series))


def label_box(x: float, y: float, label: str, where: str) -> Box:
    """What a label takes at one of `PLACES` around a mark at (x, y): its middle, width and height, in pixels."""
    side, below = PLACES[where]
    wide = CHARACTER * len(label)
    return x + side * (6 + wide / 2), y + below, wide, LINE


def _shared(chart: Chart) -> Chart:
    """The chart with one label, ``2, 7``, for all marks that lie in one place."""
    places: list[tuple[float, float, list[Mark]]] = []
    for mark in (m for s in chart.series if s.symbol for m in s.marks if m.label):
        x, y = _middle(mark, chart)
        for there in places:
            if abs(there[0] - x) < MARK / 2 and abs(there[1] - y) < MARK / 2:
                there[2].append(mark)
                break
        else:
            places.append((x, y, [mark]))
    labels = {}
    for _, _, marks in places:
        labels[id(marks[0])] = ", ".join(m.label for m in marks)
        labels |= {id(m): "" for m in marks[1:]}

    def relabelled(mark: Mark) -> Mark:
        return replace(mark, label=labels.get(id(mark), mark.label))

    return replace(chart, series=tuple(replace(s, marks=tuple(map(relabelled, s.marks))) for s in chart.series))


def _middle(mark: Mark, chart: Chart) -> tuple[float, float]:
    def share(value: float, axis: Axis) -> float:
        return (value - axis.low) / (axis.high - axis.low)

    return WIDTH * share(mark.x, chart.x), HEIGHT * (1 - share(mark.y, chart.y))


def _hidden(box: Box, taken: list[Box]) -> float:
    """The area of a label that is covered, or lies left or right of the panel, where it would be cut off."""
    x, _, wide, high = box
    outside = max(wide / 2 - x, 0.0) + max(x + wide / 2 - WIDTH, 0.0)
    return sum(_overlap(box, other) for other in taken) + outside * high


def _overlap(a: Box, b: Box) -> float:
    """The area that two boxes, given by middle and size, have in common."""
    wide, high = ((a[2 + i] + b[2 + i]) / 2 - abs(a[i] - b[i]) for i in (0, 1))
    return max(wide, 0.0) * max(high, 0.0)
