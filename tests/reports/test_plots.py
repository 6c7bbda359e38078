# SPDX-License-Identifier: Apache-2.0
"""Leakage against accuracy and by depth: every evaluated deployment once, what is not known never."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitguard.matrix import Record, Results, load
from splitguard.reports import plot_depth, plot_tradeoff
from splitguard.reports.chart import Chart, Mark
from splitguard.reports.depth import depth_charts
from splitguard.reports.facts import Deployment, Worst
from splitguard.reports.gather import deployments
from splitguard.reports.plots import Look, front, tradeoffs
from tests.reports.cases import CASES, LEAKS, Case, gaussian
from tests.reports.outcomes import leaking
from tests.reports.runs import write_run

Changed = Callable[[Record], Record]


def number(mark: Mark) -> int:
    """Of its deployment; marks in one place share a label, so the hover text says it."""
    return int(mark.hover[0].split()[0].removeprefix("#"))


def marks(chart: Chart) -> dict[int, Mark]:
    """By number of the deployment."""
    found = [m for s in chart.series if s.symbol for m in s.marks]
    out = {number(m): m for m in found}
    shown = [n for m in found if m.label for n in m.label.replace("*", "").split(", ")]
    assert sorted(map(int, shown)) == sorted(out)
    assert len(out) == len(found), "a deployment was drawn twice"
    return out


def panels(everyone: list[Deployment]) -> list[Chart]:
    return tradeoffs(everyone, Look.of(everyone))


def small(
    tmp_path: Path, *cases: Case, change: Changed = lambda r: r, seeds: tuple[int, ...] = (0,)
) -> list[Deployment]:
    return deployments(load(write_run(tmp_path / "run", cases=cases, seeds=seeds, change=change)))


def test_each_evaluated_deployment_is_drawn_once_with_its_own_numbers(everyone: list[Deployment]) -> None:
    inputs, labels = panels(everyone)
    for chart, column in ((inputs, "worst_input"), (labels, "worst_label")):
        known = {d.number: d for d in everyone if d.row.get(column) is not None}
        assert marks(chart).keys() == known.keys()
        for own, mark in marks(chart).items():
            row = known[own].row
            assert (mark.x, mark.y_low, mark.y_high) == (row["accuracy"], row[f"{column}_low"], row[f"{column}_high"])
            assert mark.y == pytest.approx(row[column])
            assert known[own].name in mark.hover[0]
    assert len(marks(inputs)) == 15
    assert set(marks(labels)) == {11, 12, 13, 14}


def test_what_is_not_drawn_is_named_with_its_reason(everyone: list[Deployment]) -> None:
    inputs, labels = panels(everyone)
    assert inputs.note == "Not evaluated, so not drawn: #16 (not run yet), #17 (nothing crosses a cut)."
    assert "#1 to #10, #15 (labels are sent)" in labels.note


def test_unusable_deployments_are_hollow_and_no_others(everyone: list[Deployment]) -> None:
    inputs = panels(everyone)[0]
    hollow = {number(m) for s in inputs.series if s.hollow for m in s.marks}
    assert hollow == {d.number for d in everyone if d.usable is False} == {4}


def test_one_defense_has_one_colour_and_one_mode_one_shape(everyone: list[Deployment]) -> None:
    looks: dict[str, set[tuple[str, str | None]]] = {}
    for chart in panels(everyone):
        for series in chart.series:
            for mark in series.marks:
                if mark.hover:
                    d = everyone[number(mark) - 1]
                    looks.setdefault(f"defense {d.defense}", set()).add((series.colour, None))
                    looks.setdefault(f"mode {d.mode}", set()).add(("", series.symbol))
    assert all(len(found) == 1 for found in looks.values())
    assert len({next(iter(v)) for k, v in looks.items() if k.startswith("defense")}) == 7


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-0.2, 1), st.booleans(), st.booleans()), max_size=12))
def test_the_front_is_what_nothing_usable_and_supported_beats(
    everyone: list[Deployment], points: list[tuple[float, float, bool, bool]]
) -> None:
    drawn = [
        (
            replace(everyone[0], row={"accuracy": accuracy, "usable": usable}),
            Worst(leak, None, None, "a", "training", 1, supported),
        )
        for accuracy, leak, usable, supported in points
    ]
    sound = {(a, v) for a, v, usable, supported in points if usable and supported}
    unbeaten = {p for p in sound if not any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in sound)}
    found = front(drawn)
    assert set(found) == unbeaten
    assert found == sorted(found)
    assert [leak for _, leak in found] == sorted(leak for _, leak in found)


def test_the_front_is_drawn_as_the_least_leakage_at_each_accuracy(everyone: list[Deployment]) -> None:
    inputs = panels(everyone)[0]
    [line] = [s for s in inputs.series if s.symbol is None]
    corners = [(m.x, m.y) for m in line.marks]
    assert corners[0][0] == inputs.x.low
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        assert x0 == x1 or y0 == y1
    usable = [(d.number_of("accuracy") or 0, d.number_of("worst_input") or 0) for d in everyone if d.usable and d.split]
    for (x0, y0), (x1, _) in zip(corners[::2], corners[1::2], strict=True):
        wanted = (x0 + x1) / 2
        assert y0 == pytest.approx(min(leak for accuracy, leak in usable if accuracy >= wanted))


def test_leakage_below_the_blind_guess_is_drawn_at_zero(tmp_path: Path) -> None:
    [only] = small(tmp_path, CASES[0], change=lambda record: leaking(record, -0.2))
    assert only.number_of("worst_input") == pytest.approx(-0.2)
    assert marks(panels([only])[0])[1].y == 0


def test_a_deployment_whose_worst_attack_is_weak_is_starred_and_off_the_front(tmp_path: Path) -> None:
    def weak(record: Record) -> Record:
        return replace(record, values={**record.values, "weak": True}) if record.cell.goal == "inputs" else record

    [only] = small(tmp_path, CASES[0], change=weak)
    chart = panels([only])[0]
    assert [m.label for s in chart.series for m in s.marks] == ["1*"]
    assert not [s for s in chart.series if s.symbol is None]
    assert "weak attack: a lower bound, no claim of privacy" in marks(chart)[1].hover


def test_only_the_strongest_adversary_is_drawn(tmp_path: Path) -> None:
    everyone = small(tmp_path, replace(CASES[0], profile="black-box"), replace(CASES[1], profile="head-known"))
    assert set(marks(panels(everyone)[0])) == {2}


def test_two_data_sets_are_never_in_one_panel(tmp_path: Path) -> None:
    everyone = small(tmp_path, CASES[0], replace(CASES[0], dataset="digits"))
    charts = panels(everyone)
    assert [set(marks(c)) for c in charts] == [{1}, set(), {2}, set()]
    assert charts[2].title.startswith("Inputs, digits")
    assert len({c.name for c in charts}) == 4


def test_intervals_that_dwarf_the_marks_do_not_squeeze_them(tmp_path: Path) -> None:
    def apart(record: Record) -> Record:
        return replace(record, values={**record.values, "accuracy": 0.6 + 0.3 * record.cell.seed})

    everyone = small(tmp_path, CASES[0], change=apart, seeds=(0, 1))
    assert (everyone[0].row["accuracy_low"], everyone[0].row["accuracy_high"]) == (0, 1)
    axis = panels(everyone)[0].x
    assert (axis.low, axis.high) == pytest.approx((0.75 - 0.06, 0.75 + 0.06))


def test_many_defenses_are_coloured_by_kind(tmp_path: Path) -> None:
    many = [Case("vanilla", ("conv1",), (gaussian(e),), epsilon=e) for e in range(100, 112)]
    everyone = small(tmp_path, CASES[0], *many)
    assert set(Look.of(everyone).paint) == {"none", "gaussian"}


def test_depth_has_every_attack_at_every_cut_in_the_order_of_the_network(everyone: list[Deployment]) -> None:
    vanilla, u_shaped, labels = depth_charts(everyone)
    assert [c.split("\n")[0] for c in vanilla.x.categories] == ["conv1", "conv2", "fc1"]
    assert vanilla.x.categories[0].split("\n")[1].split() == ["93.6", "k", "FLOPs"]
    lines = {s.name: [m.y for m in s.marks] for s in vanilla.series}
    assert lines["white-box-inversion"] == pytest.approx(list(LEAKS["white-box-inversion"].values()), abs=0.05)
    assert "inverse-network, query victims" in lines
    assert all("FLOPs" in m.hover[2] for s in vanilla.series for m in s.marks)
    assert "weak attack: a lower bound" in next(s for s in vanilla.series if "white" in s.name).marks[2].hover
    assert (u_shaped.title, labels.title) == ("Inputs: u-shaped", "Labels: u-shaped")


def test_depth_is_the_mean_over_seeds_with_students_interval(everyone: list[Deployment]) -> None:
    vanilla = depth_charts(everyone)[0]
    first = everyone[0]
    values = [
        float(r.values["leakage"] or 0)
        for r in first.finished("inputs")
        if r.cell.attack.name == "inverse-network" and r.phase == "training"
    ]
    mark = next(s for s in vanilla.series if s.name == "inverse-network").marks[0]
    assert len(values) == 3
    assert mark.y == pytest.approx(sum(values) / 3)
    spread = (sum((v - mark.y) ** 2 for v in values) / 2) ** 0.5
    assert (mark.y_high or 0) - mark.y == pytest.approx(4.302653 * spread / 3**0.5, rel=1e-5)  # t of 2 degrees, 97.5 %


def test_no_line_bridges_a_cut_that_was_not_evaluated(tmp_path: Path) -> None:
    def lost(record: Record) -> Record:
        here = record.cell.cuts == ("conv2",) and record.cell.attack.name == "inverse-network"
        return replace(record, status="failed", reason="broke") if here else record

    chart = depth_charts(small(tmp_path, *CASES[:3], change=lost))[0]
    runs = [[m.x for m in s.marks] for s in chart.series if s.name == "inverse-network"]
    assert runs == [[0.0], [2.0]]


def test_one_cut_is_no_depth(tmp_path: Path) -> None:
    assert depth_charts(small(tmp_path, CASES[0])) == []


def test_notebooks_get_plotly_figures(results: Results) -> None:
    assert len(plot_tradeoff(results).data) > 10
    assert {trace.name for trace in plot_depth(results).data} >= {"white-box-inversion", "gradient-norm"}
