# SPDX-License-Identifier: Apache-2.0
"""The table of defenses: what knowing a defense pays, paired seed by seed, against Student's formula."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.suite.defense_page import LOSS, again_table, defense_table, others_table
from benchmarks.suite.defenses import defense_rows
from splitguard.matrix import Record
from splitguard.matrix.cell import Plugin
from splitguard.metrics.stats import clopper_pearson
from tests.suite_cell import CELL, VERSION

HERE = Path(__file__).parents[1] / "benchmarks" / "suite"
#: The 95 % point of Student's t with two degrees of freedom, from printed tables.
T95 = 2.91999
DEFENDED = replace(CELL, defense=(Plugin("dropout"),))


def measured(seed: int, adaptive: bool, leakage: float | None, phase: str = "training", **more: Any) -> Record:
    values = {"leakage": leakage, "accuracy": 0.8}
    return Record(replace(DEFENDED, seed=seed, adaptive=adaptive, **more), phase, "ok", values=values)


def rows_of(*records: Record) -> list[dict[str, Any]]:
    results: Any = SimpleNamespace(records=list(records))
    return defense_rows(results)


def three(adaptive: tuple[float, ...], static: tuple[float, ...]) -> list[Record]:
    """Records of both kinds; the order of the static seeds is another one."""
    known = [measured(seed, True, value) for seed, value in enumerate(adaptive)]
    return known + [measured(seed, False, value) for seed, value in reversed([*enumerate(static)])]


def test_the_limit_is_that_of_the_paired_t_test() -> None:
    adaptive, static = (0.50, 0.62, 0.71), (0.48, 0.59, 0.69)
    (row,) = rows_of(*three(adaptive, static))
    apart = [a - s for a, s in zip(adaptive, static, strict=True)]
    assert row["pairs"] == 3
    assert row["gap"] == pytest.approx(mean(apart))
    assert row["gap_at_least"] == pytest.approx(mean(apart) - T95 * stdev(apart) / math.sqrt(3), abs=1e-6)
    assert row["gap_at_least"] > 0  # seeds differ by .2, and gaps by .01: unpaired nothing could be told
    assert (row["adaptive"], row["static"]) == (pytest.approx(mean(adaptive)), pytest.approx(mean(static)))


def test_a_constant_gap_is_its_own_limit_and_a_loss_is_marked() -> None:
    (row,) = rows_of(*three((0.2, 0.3, 0.4), (0.25, 0.35, 0.45)))
    assert row["gap_at_least"] == pytest.approx(-0.05)
    (fine,) = rows_of(*three((0.2, 0.3, 0.4), (0.2, 0.3, 0.4)))
    assert fine["gap_at_least"] == 0
    assert "-0.050 !" in defense_table([row, fine])
    assert f"Limits of at least {LOSS}: 1 of 2." in defense_table([row, fine])
    assert " !" not in defense_table([fine]).split("|---|")[-1]


def test_only_whole_pairs_count_and_without_two_of_them_there_is_no_limit() -> None:
    left_over = [measured(7, True, 0.9), measured(8, False, 0.1), measured(9, True, None)]
    (row,) = rows_of(*three((0.5, 0.6, 0.7), (0.4, 0.5, 0.6)), *left_over)
    assert (row["pairs"], row["gap"], row["gap_at_least"]) == (3, pytest.approx(0.1), pytest.approx(0.1))
    (single,) = rows_of(measured(0, True, 0.5), measured(0, False, 0.4))
    assert (single["pairs"], single["gap_at_least"]) == (1, None)
    (alone,) = rows_of(measured(0, True, 0.5))
    assert (alone["pairs"], alone["gap"], alone["gap_at_least"], alone["static"]) == (0, None, None, None)
    assert defense_table([alone]).rstrip().endswith("0 of 0.")


def test_other_victims_and_other_trainings_are_no_partners() -> None:
    """Two deployments may have one name in the table; a value is paired with that of its own training."""
    longer: dict[str, Any] = {"training": {"head": "trained", "epochs": 9}}
    mixed = [measured(0, True, 0.5), measured(0, False, 0.4), measured(0, True, 0.8, **longer)]
    (row,) = rows_of(*mixed, measured(0, False, 0.6, **longer), measured(0, False, 0.0, phase="query"))
    assert (row["pairs"], row["gap"]) == (2, pytest.approx(0.15))


def test_the_widest_clear_gaps_are_the_headline() -> None:
    clear, wide, unclear = (
        dict(rows_of(*three(adaptive, (0.1, 0.2, 0.3)))[0], attack=name)
        for name, adaptive in (("a", (0.2, 0.3, 0.4)), ("b", (0.5, 0.6, 0.7)), ("c", (0.0, 0.9, 0.9)))
    )
    told = defense_table([clear, unclear, wide]).splitlines()[2]
    assert told.startswith(
        "**In 2 of 3 rows an attacker who knows the defense gains clearly; most in** b on dropout, 0.200"
    )
    assert told.index("b on dropout") < told.index("a on dropout")
    assert "c on dropout" not in told
    assert "In no row" in defense_table([unclear])


def test_accuracy_is_that_of_honest_training() -> None:
    active = measured(0, True, 0.5, active=True)
    (row,) = rows_of(replace(active, extra={"honest": {"values": {"accuracy": 0.9}, "extra": {}}}))
    assert row["accuracy"] == 0.9
    (unknown,) = rows_of(active)
    assert unknown["accuracy"] is None  # the honest training is not done yet, and the hijacked one is no answer


def test_each_epsilon_is_told_with_what_it_is_about() -> None:
    told = [
        {"channel": "labels", "epsilon": 2.0, "epsilon_rows": 2.0},
        {"channel": "inputs", "epsilon": None, "epsilon_rows": 7.9999999},
        {"channel": "inputs", "epsilon": None, "epsilon_rows": None},
    ]
    record = replace(measured(0, True, 0.5), extra={"guarantee_data": told})
    frozen = replace(record, values={**record.values, "accuracy_drop": 0.05, "aux_accuracy": 0.7})
    (row,) = rows_of(frozen)
    assert row["guarantee"] == "2 (labels) + 8 (inputs, releases)"
    assert "| 0.800 (-0.050) | 0.700 | 2 (labels) + 8 (inputs, releases) |" in defense_table([row])


def test_a_task_of_fewer_classes_is_told_and_is_a_row_of_its_own() -> None:
    coarse = {**DEFENDED.data, "coarse": [0, 1, 0, 1]}
    rows = rows_of(measured(0, True, 0.5), measured(0, True, 0.6, data=coarse))
    assert [row["task"] for row in rows] == ["", "2 classes"]
    assert ", 2 classes |" in defense_table(rows)


def test_a_breaker_without_a_number_is_listed_with_the_reason_unless_it_ran_elsewhere() -> None:
    refused = Record(replace(DEFENDED, attack=Plugin("idlg")), "training", "refused", "no updates")
    rows = rows_of(refused, measured(0, True, 0.5))
    assert rows[0]["adaptive"] is None
    assert defense_table(rows).rstrip().endswith(f"- Not run: {refused.cell.attack} on dropout: no updates.")
    assert defense_table(rows).count(str(refused.cell.attack)) == 1  # no line of the table
    elsewhere = measured(0, True, 0.5, attack=Plugin("idlg"), mode="splitfed")
    assert "Not run" not in defense_table(rows_of(refused, elsewhere))


def test_of_each_deployment_the_strongest_of_either_kind_is_told() -> None:
    weak, strong = three((0.5, 0.5, 0.5), (0.4, 0.4, 0.4)), three((0.9, 0.9, 0.9), (0.1, 0.1, 0.1))
    strong = [replace(record, cell=replace(record.cell, attack=Plugin("inverse-network"))) for record in strong]
    other = measured(0, True, 0.2, labels="server", goal="labels")
    told = defense_table(rows_of(*weak, *strong, other)).split("## Every breaker")[0]
    assert "**Of the strongest breakers of each kind, most in** inputs on dropout, 0.400 to 0.900." in told
    assert "| inputs | 0.900 by inverse-network | 0.400 by white-box-inversion |" in told
    assert "| labels | 0.200 by white-box-inversion |  |" in told


def test_a_row_of_another_version_of_its_attack_is_marked() -> None:
    (row,) = rows_of(measured(0, True, 0.5))
    assert row["versions"] == {"white-box-inversion": VERSION, "dropout": 1}
    assert "to be run again" not in defense_table([row])
    before = defense_table([dict(row, versions={**row["versions"], "white-box-inversion": VERSION - 1})])
    assert "| white-box-inversion * |" in before
    assert "to be run again" in before


def test_the_strongest_is_chosen_on_one_half_and_told_of_the_other() -> None:
    halves = {"a": (0.3, 0.2), "b": (0.1, 0.9)}
    records = [
        replace(
            measured(seed, adaptive, sum(half) / 2, attack=Plugin(name)),
            extra={"halves": {"leakage": dict(zip(("choose", "report"), half, strict=True))}},
        )
        for seed in (1, 2)
        for adaptive in (True, False)
        for name, half in zip(("white-box-inversion", "inverse-network"), halves.values(), strict=True)
    ]
    told = defense_table(rows_of(*records)).split("## Every breaker")[0]
    assert "| inputs | 0.200 by white-box-inversion | 0.200 by white-box-inversion |" in told
    assert "| 0.500 | 0.500 | 0.000 | 0.000 |" in defense_table(rows_of(*records))  # of all victims, further down


def test_a_weak_attack_an_unusable_deployment_a_bound_and_the_steps_are_told() -> None:
    def record(adaptive: bool, weak: bool, **more: float) -> Record:
        made = measured(0, adaptive, 0.25)
        extra = {"budget": {"steps": 2000 if adaptive else 1000}, "chance": 0.79}
        return replace(made, values={**made.values, "weak": weak, **more}, extra=extra)

    known, unknown = (record(adaptive, adaptive, bound=0.3, choice_accuracy=0.25) for adaptive in (True, False))
    shown = defense_table(rows_of(known, unknown))
    assert "| 0.800, unusable |" in shown
    assert "| 0.250 weak | 0.250 | 0.000 |  | named 0.250 of at most 0.300 | 2,000 (1,000) |" in shown
    assert "by white-box-inversion, weak |" in shown
    images = defense_table(rows_of(record(True, False, mse=0.02, dfil_mse=0.04)))
    assert "| 0.250 |  |  |  | mse 0.020, unbiased 0.040 | 2,000 |" in images
    assert "weak |" not in images
    both = defense_table(rows_of(record(True, False, reid=0.125, bound=0.3, mse=0.02, dfil_mse=0.04)))
    assert "| named 0.125 of at most 0.300; mse 0.020, unbiased 0.040 |" in both


def test_an_attack_that_finds_little_undefended_is_marked() -> None:
    [row] = rows_of(measured(0, True, 0.5))
    for leakage, marked in ((0.09, True), (0.11, False)):
        control = {**row, "defense": "none", "adaptive": leakage, "static": None}
        shown = defense_table([control, {**row, "attack": "white-box-inversion(releases=1)"}])
        assert ("white-box-inversion(releases=1) † |" in shown) is marked
        assert ("says nothing for the defense" in shown) is marked
        for other in ({"cut": "fc1"}, {"goal": "labels"}, {"attack": "fora"}, {"defense": "none, head frozen"}):
            lines = defense_table([{**control, **other}, row]).splitlines()
            assert not [line for line in lines if line.startswith("| dropout |") and "†" in line]


def test_all_stored_rows_of_a_deployment_are_of_one_training() -> None:
    rows = json.loads((HERE / "results" / "defenses.json").read_text(encoding="utf-8"))
    text = defense_table(rows)
    assert "more than one run" not in text
    assert "to be run again" not in text


@pytest.mark.parametrize("name", ["defenses", "codebook"])
def test_no_stored_row_beats_its_bound(name: str) -> None:
    """The share named of 31 victims or more in each of three seeds, by its 99 % Clopper-Pearson limit."""
    rows = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
    if name == "defenses":
        each = [
            (r["beside"][kind]["named"], r["bound"]) for r in rows for kind in r["beside"] if r["bound"] is not None
        ]
    else:
        each = [(r["choices"], r["bound"]) for r in rows if r["bound"] is not None]
    assert len(each) > 10
    beaten = [(named, bound) for named, bound in each if clopper_pearson(round(named * 93), 93, level=0.98).low > bound]
    assert beaten == []


def test_weakness_in_one_seed_of_several_is_told() -> None:
    seeds = [replace(r := measured(seed, True, 0.5), values={**r.values, "weak": seed == 1}) for seed in range(3)]
    assert "| 0.500 weak |" in defense_table(rows_of(*seeds))


@pytest.mark.parametrize("table", [again_table, others_table])
def test_rows_on_a_page_of_their_own_have_the_same_lines(table: Callable[[Any], str]) -> None:
    rows = rows_of(*three((0.2, 0.3, 0.4), (0.25, 0.35, 0.45)))
    shown, first = table(rows), defense_table(rows)
    lines = [line for line in shown.splitlines() if "white-box-inversion" in line]
    assert len(lines) == 1
    assert "-0.050 !" in lines[0]
    assert lines[0] in first.splitlines()
    assert "Limits of at least -0.02: 0 of 1." in shown
    assert "Of 3 to 3 seeds" in shown


def test_rows_of_one_deployment_that_are_of_two_trainings_are_told() -> None:
    one = rows_of(measured(0, True, 0.5))[0]
    assert "more than one run" not in defense_table([one, dict(one, attack="b")])
    assert "in 1 of the deployments" in defense_table([one, dict(one, attack="b", accuracy=0.81)])
    assert "more than one run" not in defense_table([one, dict(one, defense="b", accuracy=0.81)])
    assert "more than one run" not in defense_table([one, dict(one, attack="b", accuracy=None)])
