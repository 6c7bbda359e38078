# SPDX-License-Identifier: Apache-2.0
"""The summary: the worst attack is chosen on one half of the victims and reported on the other half."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from splitguard.matrix import Plugin, Record
from splitguard.matrix.results import _table
from splitguard.matrix.summary import SUMMARY_COLUMNS, summarise
from splitguard.metrics.stats import clopper_pearson, t_interval
from tests.matrix.test_cell import CELL

HONEST = replace(CELL, active=False)


def half(choose: float | None, report: float | None) -> dict[str, float | None]:
    return {"choose": choose, "report": report, "low": -0.5, "high": 0.5}


def record(
    attack: str = "a",
    *,
    seed: int = 0,
    phase: str = "training",
    halves: dict[str, Any] | None = None,
    status: Any = "ok",
    goal: str = "inputs",
    **values: Any,
) -> Record:
    cell = replace(HONEST, attack=Plugin(attack), seed=seed, goal=goal)
    extra = {"test_rows": 50, "chance": 0.5, "halves": halves or {}}
    return Record(cell, phase, status, None, {"accuracy": 0.8, **values}, extra)


def row(*records: Record) -> dict[str, Any]:
    (found,) = summarise(records)
    assert list(found) == list(SUMMARY_COLUMNS)
    return found


def test_the_lucky_half_does_not_reach_the_report() -> None:
    lucky = record("lucky", leakage=0.3, halves={"leakage": half(0.6, 0.1)})
    steady = record("steady", leakage=0.4, halves={"leakage": half(0.4, 0.4)})
    found = row(lucky, steady)
    assert (found["worst_input"], found["worst_input_attack"]) == (0.1, "lucky")
    assert (found["worst_input_low"], found["worst_input_high"]) == (-0.5, 0.5)
    assert found["interval"] == "over victims, 1 seed"


def test_a_single_attack_is_reported_on_all_victims() -> None:
    found = row(record(leakage=0.3, leakage_low=0.2, leakage_high=0.4, halves={"leakage": half(0.6, 0.1)}))
    assert [found[f"worst_input{p}"] for p in ("", "_low", "_high")] == [0.3, 0.2, 0.4]


def test_over_seeds_the_choice_is_common_and_the_interval_students_t() -> None:
    made = [
        record(name, seed=seed, accuracy=0.7 + seed / 10, leakage=0.0, halves={"leakage": half(choose, report)})
        for name, values in {
            "a": [(0.5, 0.1), (0.5, 0.2), (0.5, 0.6)],
            "b": [(0.9, 0.9), (0.2, 0.9), (0.1, 0.9)],
        }.items()
        for seed, (choose, report) in enumerate(values)
    ]
    found = row(*made)
    assert found["worst_input_attack"] == "a"  # 0.5 on average against 0.4
    assert found["worst_input"] == pytest.approx(0.3)
    over_seeds = t_interval([0.1, 0.2, 0.6])
    assert over_seeds is not None
    assert (found["worst_input_low"], found["worst_input_high"]) == (over_seeds.low, over_seeds.high)
    assert (found["interval"], found["seeds"], found["worst_input_seeds"]) == ("over 3 seeds", 3, 3)
    assert found["accuracy"] == pytest.approx(0.8)
    made[2] = replace(made[2], status="failed", values={})
    made[5] = replace(made[5], status="failed", values={})
    assert row(*made)["interval"] == "over 2 seeds"  # one that failed is in no interval
    assert row(*[replace(r, status="failed", values={}) for r in made])["interval"] is None


def test_re_identification_is_the_worst_over_both_distances() -> None:
    halves = {"reid_pixel": half(0.2, 0.3), "reid_lpips": half(0.4, 0.1)}
    found = row(record(reid_pixel=0.25, reid_lpips=0.25, leakage=None, halves=halves))
    assert found["worst_reid"] == 0.1
    assert found["worst_input"] is None


def test_goals_are_never_merged_and_nothing_evaluated_is_missing() -> None:
    found = row(
        record(goal="labels", leakage=0.9, leakage_low=0.8, leakage_high=1.0, halves={"leakage": half(0.9, 0.9)})
    )
    assert (found["worst_label"], found["worst_input"], found["worst_reid"]) == (0.9, None, None)
    nothing = row(record(status="failed"), record(phase="query", status="refused"))
    assert (nothing["worst_input"], nothing["worst_label"]) == (None, None)


def test_failed_refused_and_weak_attacks_are_counted() -> None:
    found = row(
        record(weak=True, leakage=0.1, halves={"leakage": half(0.1, 0.1)}),
        record(phase="query", weak=False, leakage=0.1),
        record("b", status="failed"),
        record("c", status="refused"),
    )
    assert [found[f"attacks_{k}"] for k in ("ok", "refused", "failed", "weak")] == [2, 1, 1, 1]


@pytest.mark.parametrize(("accuracy", "usable"), [(0.56, True), (0.54, False)])
def test_below_chance_and_five_points_is_unusable(accuracy: float, usable: bool) -> None:
    found = row(record(accuracy=accuracy))
    assert found["usable"] is usable
    exact = clopper_pearson(round(accuracy * 50), 50)
    assert (found["accuracy_low"], found["accuracy_high"]) == (exact.low, exact.high)


def test_an_accuracy_nobody_measured_is_missing() -> None:
    found = row(record(accuracy=None, status="refused"))
    assert (found["accuracy"], found["usable"]) == (None, None)


def test_an_active_attack_does_not_speak_for_the_deployments_accuracy() -> None:
    active = record("active", accuracy=0.1)
    active = replace(active, cell=replace(active.cell, active=True))
    assert row(active, record(accuracy=0.8))["accuracy"] == 0.8
    assert row(active)["accuracy"] is None
    honest = record(accuracy=0.7)
    told = replace(active, extra={**active.extra, "honest": {"values": honest.values, "extra": honest.extra}})
    assert (row(told)["accuracy"], row(told)["usable"]) == (0.7, True)


def test_deployments_have_rows_of_their_own() -> None:
    other = record()
    other = replace(other, cell=replace(other.cell, profile="black-box"))
    assert len(summarise([record(), record("b"), other])) == 2


def test_of_several_epsilons_the_largest_stands() -> None:
    found = row(record(epsilon_rows=7.0, client_params=10), record(seed=1, epsilon_rows=8.0, client_params=10))
    assert (found["epsilon_rows"], found["client_params"], found["epsilon"]) == (8.0, 10, None)


def test_whole_numbers_stay_whole_where_some_are_missing() -> None:
    table = _table([{"n": 3, "x": 1, "b": True, "t": "a"}, {"x": 0.5}], ["n", "x", "b", "t", "none"])
    assert table.to_csv(index=False) == "n,x,b,t,none\n3,1.0,True,a,\n,0.5,,,\n"
