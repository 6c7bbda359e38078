# SPDX-License-Identifier: Apache-2.0
"""The charts on paper: well-formed whatever is named, with every mark where its numbers put it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitguard.reports.chart import SYMBOLS, Axis, Chart, Mark, Series
from splitguard.reports.still import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, gauge, svg, swatch

SVG = "{http://www.w3.org/2000/svg}"
UNIT = Axis("x", 0, 1), Axis("y", 0, 1)
INNER = WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - TOP


def drawn(series: Series, alt: str = "") -> list[ElementTree.Element]:
    """The groups of marks."""
    return ElementTree.fromstring(svg(Chart("c", "C", *UNIT, (series,), alt))).findall(f"{SVG}g")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="￾￿"), min_size=1))
def test_names_are_text_and_never_markup(name: str) -> None:
    nasty = f'{name}"</svg><script>alert(1)</script>'
    [group] = drawn(Series(nasty, (Mark(0.5, 0.5, label=nasty, hover=(nasty, "second")),)), alt=nasty)
    assert group.findtext(f"{SVG}title") == f"{nasty}\nsecond"
    assert group.findtext(f"{SVG}text") == nasty


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_mark_lies_where_its_numbers_put_it(symbol: str) -> None:
    [group] = drawn(Series("s", (Mark(0.25, 0.75),), symbol=symbol))
    outline = group.findall(f"{SVG}path")[-1].attrib["d"]
    numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", outline)]
    x, y = LEFT + 0.25 * INNER[0], TOP + 0.25 * INNER[1]
    if symbol == "circle":  # starts at its left end
        assert numbers[:2] == pytest.approx([x - 4.5, y], abs=0.1)
    else:
        corners = list(zip(numbers[::2], numbers[1::2], strict=True))
        assert min(c[0] for c in corners) + max(c[0] for c in corners) == pytest.approx(2 * x, abs=0.2)
        assert min(c[1] for c in corners) < y < max(c[1] for c in corners)


def test_an_interval_is_a_bar_and_a_missing_one_is_none() -> None:
    [bare] = drawn(Series("s", (Mark(0.5, 0.5),)))
    [barred] = drawn(Series("s", (Mark(0.5, 0.5, x_low=0.4, x_high=0.7, y_low=0.1, y_high=2.0),)))
    assert len(bare.findall(f"{SVG}path")) == 1
    vertical, horizontal, _ = (path.attrib["d"] for path in barred.findall(f"{SVG}path"))
    middle, low, high = LEFT + 0.5 * INNER[0], TOP + 0.9 * INNER[1], TOP  # 2.0 ends at the edge of the panel
    assert vertical == f"M{middle:.1f} {low:.1f}V{high:.1f}"
    assert horizontal == f"M{LEFT + 0.4 * INNER[0]:.1f} {TOP + 0.5 * INNER[1]:.1f}H{LEFT + 0.7 * INNER[0]:.1f}"


def test_what_is_hollow_is_not_filled() -> None:
    for hollow in (True, False):
        [group] = drawn(Series("s", (Mark(0.5, 0.5),), colour="#123456", hollow=hollow))
        assert group.findall(f"{SVG}path")[-1].attrib["fill"] == ("none" if hollow else "#123456")


def test_a_chart_without_data_is_axes_alone() -> None:
    tree = ElementTree.fromstring(svg(Chart("c", "C", *UNIT)))
    assert tree.find(f"{SVG}g") is None
    assert {"0.0", "1.0", "x", "y"} <= {text.text for text in tree.iter(f"{SVG}text")}


def test_a_gauge_shows_the_bound_only_where_there_is_one() -> None:
    with_bound = ElementTree.fromstring(gauge(0.5, 0.4, 0.6, chance=0.1, bound=0.75))
    without = ElementTree.fromstring(gauge(0.5, 0.4, 0.6, chance=0.1, bound=None))
    assert len(with_bound) == len(without) + 1
    assert with_bound[-1].attrib["d"].startswith(f"M{2 + 172 * 0.75:.1f} ")
    assert "no bound" in without.attrib["aria-label"]


def test_a_swatch_looks_like_its_series() -> None:
    tree = ElementTree.fromstring(swatch(Series("", (), "#123456", "diamond", hollow=True, line="dash")))
    line, shape = tree
    assert line.attrib["stroke-dasharray"]
    assert (shape.attrib["fill"], shape.attrib["stroke"]) == ("none", "#123456")
