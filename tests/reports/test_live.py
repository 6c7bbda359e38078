# SPDX-License-Identifier: Apache-2.0
"""The charts in a browser or a notebook: the same numbers as in the chart, and no tags in their texts."""

from __future__ import annotations

from typing import Any

import pytest

from splitguard.reports.chart import Axis, Chart, Mark, Series
from splitguard.reports.live import figure

NASTY = '<a href="javascript:alert(1)">x</a>&'


def chart(*series: Series, name: str = "c") -> Chart:
    return Chart(name, f"title {NASTY}", Axis("accuracy", 0, 1, percent=True), Axis("leakage", 0, 1), series)


def plain(*charts: Chart, legend: bool = True) -> dict[str, Any]:
    out: dict[str, Any] = figure(*charts, legend=legend).to_plotly_json()
    return out


def test_the_numbers_are_those_of_the_chart() -> None:
    series = Series("s", (Mark(0.2, 0.3, label="1"), Mark(0.4, 0.5, label="2")), colour="#123456", symbol="diamond")
    [trace] = plain(chart(series))["data"]
    assert (trace["x"], trace["y"], trace["text"]) == ([0.2, 0.4], [0.3, 0.5], ["1", "2"])
    assert (trace["marker"]["symbol"], trace["marker"]["color"]) == ("diamond", "#123456")
    assert trace["mode"] == "markers+text"


def test_intervals_reach_as_far_as_they_say_and_end_at_the_axis() -> None:
    both, none = Mark(0.5, 0.6, y_low=0.4, y_high=1.5), Mark(0.7, 0.2)
    [trace] = plain(chart(Series("s", (both, none))))["data"]
    assert trace["error_y"]["arrayminus"][0] == pytest.approx(0.2)
    assert trace["error_y"]["array"][0] == pytest.approx(0.4)
    assert trace["error_y"]["array"][1] is None
    assert trace["error_y"]["arrayminus"][1] is None
    assert "error_x" not in trace


def test_a_value_drawn_at_the_edge_has_no_bar_of_negative_length() -> None:
    clipped = Mark(0.5, 0.0, y_low=-0.3, y_high=-0.1)
    [trace] = plain(chart(Series("s", (clipped,))))["data"]
    assert trace["error_y"]["array"] == trace["error_y"]["arrayminus"] == [0]


def test_what_a_user_names_is_no_tag() -> None:
    nasty = Series(NASTY, (Mark(0.5, 0.5, label=NASTY, hover=(NASTY, NASTY)),))
    shown = plain(chart(nasty), chart(nasty))
    [trace, _] = shown["data"]
    texts = [trace["name"], *trace["text"], *trace["hovertext"][0].split("<br>")]
    texts.append(shown["layout"]["annotations"][0]["text"].removeprefix("<b>").removesuffix("</b>"))
    for text in texts:
        assert "<" not in text
        assert "&lt;a href=" in text


def test_hollow_marks_and_lines() -> None:
    [trace] = plain(chart(Series("s", (Mark(0, 0), Mark(1, 1)), symbol="square", hollow=True, line="dash")))["data"]
    assert trace["marker"]["symbol"] == "square-open"
    assert (trace["mode"], trace["line"]["dash"]) == ("lines+markers", "dash")


def test_charts_side_by_side_share_one_legend_and_keep_their_axes() -> None:
    series = Series("s", (Mark(0.5, 0.5),))
    shown = plain(chart(series), chart(series))
    assert [trace["showlegend"] for trace in shown["data"]] == [True, False]
    assert [trace["xaxis"] for trace in shown["data"]] == ["x", "x2"]
    first, second = shown["layout"]["xaxis"]["domain"], shown["layout"]["xaxis2"]["domain"]
    assert first[1] < second[0]
    assert second[1] == pytest.approx(1)
    assert not any(trace["showlegend"] for trace in plain(chart(series), legend=False)["data"])


def test_the_background_is_the_pages() -> None:
    layout = plain(chart())["layout"]
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0, 0, 0, 0)"
