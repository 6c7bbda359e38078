# SPDX-License-Identifier: Apache-2.0
"""Axes say what they mean, labels do not cover each other, and colours can be seen on both pages."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitguard.reports.chart import NEUTRAL, PALETTE, Axis, Chart, Mark, Series, colours, nice_ticks
from splitguard.reports.dodge import CHARACTER, HEIGHT, LINE, WIDTH, label_box, spread
from splitguard.reports.page import TEMPLATES

STYLE = (TEMPLATES / "style.css").read_text(encoding="utf-8")


@given(st.floats(-100, 100), st.floats(1e-3, 1e3), st.booleans())
def test_each_tick_is_where_its_text_says(low: float, span: float, percent: bool) -> None:
    axis = Axis("", low, low + span, percent=percent)
    ticks = axis.ticks()
    step = ticks[1][0] - ticks[0][0]
    for value, text in ticks:
        assert low - 1e-9 * span <= value <= low + span * (1 + 1e-9)
        assert float(text.split()[0]) / (100 if percent else 1) == pytest.approx(value, abs=1e-6 * step)
    assert 2 <= len(ticks) <= 8


def test_a_range_without_extent_has_one_tick() -> None:
    assert nice_ticks(0.5, 0.5) == [0.5]


def test_categories_are_labelled_in_place_of_numbers() -> None:
    assert Axis("", 0, 1, categories=("conv1", "fc1")).ticks() == [(0.0, "conv1"), (1.0, "fc1")]


def _labels(chart: Chart) -> list[str]:
    return [mark.beside for series in chart.series for mark in series.marks]


def _chart(*places: tuple[float, float]) -> Chart:
    marks = tuple(Mark(x, y, label=str(i)) for i, (x, y) in enumerate(places))
    return Chart("c", "C", Axis("", 0, 1), Axis("", 0, 1), (Series("s", marks),))


def test_labels_of_crowded_marks_do_not_cover_each_other() -> None:
    crowded = [(0.5 + dx, 0.5 + dy) for dx in (0, 0.03) for dy in (0, 0.04)]
    marks = spread(_chart(*crowded)).series[0].marks
    boxes = [label_box(WIDTH * mark.x, HEIGHT * (1 - mark.y), mark.label, mark.beside) for mark in marks]
    for (x, y, *_), (u, v, *_) in combinations(boxes, 2):
        assert abs(x - u) >= CHARACTER or abs(y - v) >= LINE


def test_a_long_label_at_the_edge_stays_in_the_panel() -> None:
    """As "1, 8, 20, 22" did not, which no longer fitted right of an accuracy of 79 %."""
    near = [(0.97 + dx, 0.5) for dx in (0, 0.001, 0.002, 0.003)]
    mark = spread(_chart(*near)).series[0].marks[0]
    assert mark.label == "0, 1, 2, 3"
    x, _, wide, _ = label_box(WIDTH * mark.x, HEIGHT * (1 - mark.y), mark.label, mark.beside)
    assert wide / 2 <= x <= WIDTH - wide / 2


def test_marks_in_one_place_share_one_label() -> None:
    chart = spread(_chart((0.5, 0.5), (0.9, 0.9), (0.501, 0.499)))
    assert [mark.label for series in chart.series for mark in series.marks] == ["0, 2", "1", ""]


def test_labels_of_marks_far_apart_stay_where_they_are() -> None:
    assert _labels(spread(_chart((0.1, 0.1), (0.5, 0.5), (0.9, 0.9)))) == ["top right"] * 3


def test_a_line_without_marks_takes_no_room() -> None:
    line = Series("front", (Mark(0.5, 0.5), Mark(0.53, 0.53)), symbol=None)
    chart = _chart((0.5, 0.5))
    crowded = Chart("c", "C", chart.x, chart.y, (line, *chart.series))
    assert _labels(spread(crowded))[-1] == "top right"


def test_colours_follow_the_order_and_start_again() -> None:
    found = colours(["none", *map(str, range(len(PALETTE) + 1))], neutral=["none"])
    assert found["none"] == NEUTRAL
    assert found["0"] == PALETTE[0] == found[str(len(PALETTE))]
    assert len(set(found.values())) == len(PALETTE) + 1


def _contrast(one: str, other: str) -> float:
    """WCAG 2: of relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _themes() -> list[dict[str, str]]:
    """The light and the dark variables of the style sheet."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    return [dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", block)) for block in blocks[:2]]


def test_contrast_of_black_and_white_is_21() -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("colour", [*PALETTE, NEUTRAL])
def test_data_can_be_seen_on_both_pages(colour: str) -> None:
    for theme in _themes():
        assert _contrast(colour, theme["--page"]) >= 3


def test_text_can_be_read_on_both_pages() -> None:
    light, dark = _themes()
    for theme in (light, dark):
        for text in ("--ink", "--quiet", "--link", "--bad"):
            for behind in ("--page", "--raised"):
                assert _contrast(theme[text], theme[behind]) >= 4.5, (text, behind)
        assert _contrast(theme["--warn-ink"], theme["--warn-page"]) >= 4.5
