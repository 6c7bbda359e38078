# SPDX-License-Identifier: Apache-2.0
"""Names, candidates, gaps and the facts of a run, as they are gathered from the records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from splitguard.matrix import Plugin, Record, Results, load
from splitguard.metrics.stats import clopper_pearson
from splitguard.reports.candidates import matches
from splitguard.reports.facts import Deployment
from splitguard.reports.gaps import Group, gaps
from splitguard.reports.gather import comparable, deployments, short_names
from splitguard.reports.overview import overview
from tests.reports.cases import CANDIDATES, CASES, ENVIRONMENT, NASTY, SOURCE, VICTIMS, Case
from tests.reports.runs import write_run


def groups(everyone: list[Deployment]) -> dict[str, Group]:
    return {group.title: group for group in gaps(everyone)}


def test_deployments_are_numbered_in_the_order_of_the_matrix_run_or_not(everyone: list[Deployment]) -> None:
    assert [d.number for d in everyone] == list(range(1, len(CASES) + 1))
    assert [d.mode.split(",")[0] for d in everyone] == [case.mode for case in CASES]
    assert everyone[15].records == ()
    assert len(everyone[15].missing) == 27


def test_names_tell_all_deployments_apart(everyone: list[Deployment], tmp_path: Path) -> None:
    assert len({d.name for d in everyone}) == len(everyone)
    assert everyone[10].name == "vanilla, labels at the server · conv2 · undefended"
    twice = load(write_run(tmp_path / "run", cases=[CASES[0], replace(CASES[0], profile="active")], seeds=[0]))
    names = [d.name for d in deployments(twice)]
    assert names == [f"vanilla · conv1 · undefended · against {profile}" for profile in ("head-known", "active")]
    assert [d.number for group in comparable(deployments(twice)).values() for d in group] == [2]


def test_names_tell_how_heads_are_trained_only_where_that_tells_them_apart(tmp_path: Path) -> None:
    frozen = replace(CASES[6], lr=0.001)
    alike = load(write_run(tmp_path / "alike", cases=[CASES[1], frozen], seeds=[0]))
    assert [d.name.count("lr=") for d in deployments(alike)] == [0, 0]
    assert "head frozen" in deployments(alike)[1].name
    apart = load(write_run(tmp_path / "apart", cases=[CASES[1], replace(CASES[1], lr=0.1)], seeds=[0]))
    assert [d.name for d in deployments(apart)] == [
        f"vanilla · conv2 · undefended · sgd lr={lr}" for lr in ("0.02", "0.1")
    ]


def test_an_attack_is_called_by_its_settings_only_where_that_is_needed(everyone: list[Deployment]) -> None:
    assert everyone[0].attacks["white-box-inversion(steps=300)"] == "white-box-inversion"
    steps = [Plugin("a", settings={"steps": n}, told={"steps": n}) for n in (1, 2)]
    found = short_names([*steps, Plugin("b", told={"x": 1}), Plugin(NASTY)])
    assert found == {"a(steps=1)": "a(steps=1)", "a(steps=2)": "a(steps=2)", "b(x=1)": "b", NASTY: NASTY}


def test_the_twin_of_each_deployment_is_its_undefended_self(everyone: list[Deployment]) -> None:
    by_key = {d.key: d for d in everyone}
    for d in everyone:
        if d.defended and d.twin in by_key:
            twin = by_key[d.twin]
            assert (twin.mode, twin.cell.base, twin.defended) == (d.mode, d.cell.base, False)
    assert by_key[everyone[9].twin].number == 2  # deeper-cut, from conv2


def test_intervals_are_shown_within_what_is_possible(everyone: list[Deployment]) -> None:
    ends = {
        f"{name}_{end}": value
        for name in ("worst_input", "worst_reid")
        for end, value in (("low", -9.0), ("high", 9.0))
    }
    wide = replace(everyone[0], row={**everyone[0].row, **ends})
    leak, reid = wide.worst("worst_input"), wide.worst("worst_reid")
    assert leak is not None
    assert reid is not None
    assert (leak.low, leak.high) == (-9, 1)  # leakage is signed, and at most 1
    assert (reid.low, reid.high) == (0, 1)


def test_candidates_of_all_seeds_are_pooled_beside_their_bound(everyone: list[Deployment]) -> None:
    found = {(m.deployment.number, m.phase): m for m in matches(everyone)}
    assert len(found) == 30
    one = found[5, "training"]
    assert (one.hits, one.n, one.seeds) == (27, 3 * VICTIMS, 3)
    assert one.interval == clopper_pearson(27, 3 * VICTIMS)
    assert one.bound == pytest.approx(0.52)
    assert (one.chance, one.exceeds) == (1 / CANDIDATES, False)
    assert found[1, "query"].bound is None
    assert not found[1, "query"].exceeds


def test_a_bound_is_exceeded_only_if_the_whole_interval_lies_above_it(everyone: list[Deployment]) -> None:
    exceeding = {m.deployment.number for m in matches(everyone) if m.exceeds}
    assert exceeding == {4}
    [four, _] = [m for m in matches(everyone) if m.deployment.number == 4]
    assert not replace(four, bound=four.interval.low).exceeds
    assert replace(four, bound=four.interval.low - 1e-9).exceeds


def test_a_seed_without_a_bound_leaves_none_for_all(tmp_path: Path) -> None:
    def lost(record: Record) -> Record:
        first = record.cell.goal == "candidates" and record.cell.seed == 0
        return replace(record, values={**record.values, "bound": None}) if first else record

    shown = deployments(load(write_run(tmp_path / "run", cases=[CASES[4]], seeds=[0, 1], change=lost)))
    assert [m.bound for m in matches(shown)] == [None, None]


def test_guessed_images_that_re_identify_stand_beside_a_bound_and_only_beside_one(tmp_path: Path) -> None:
    def bounded(record: Record) -> Record:
        named = record.cell.attack.name == "inverse-network" and record.phase == "training"
        reid = {"reid": 0.25, "reid_pixel": 0.25, "reid_lpips": 0.125}
        return replace(record, values={**record.values, "bound": 0.3, **reid}) if named else record

    shown = deployments(load(write_run(tmp_path / "run", cases=[CASES[4]], seeds=[0, 1], change=bounded)))
    found = {(m.attack, m.phase): m for m in matches(shown)}
    assert {attack for attack, _ in found} == {"candidate-match", "inverse-network"}
    one = found["inverse-network", "training"]
    assert (one.hits, one.n, one.chance) == (VICTIMS // 4 * 2, 2 * VICTIMS, 1 / VICTIMS)
    assert one.bound == pytest.approx(0.3)
    assert one.interval == clopper_pearson(one.hits, one.n, level=0.975)  # the better of two distances was counted
    other = found["candidate-match", "training"]
    assert other.interval == clopper_pearson(other.hits, other.n)


def test_every_record_that_is_not_ok_is_in_the_gaps_with_its_reason(
    results: Results, everyone: list[Deployment]
) -> None:
    found = groups(everyone)
    for title, status in (("Failed", "failed"), ("Refused", "refused")):
        records = [r for r in results.records if r.status == status]
        assert found[title].total == len(records) == sum(gap.count or 0 for gap in found[title].gaps)
        assert {gap.reason for gap in found[title].gaps} == {r.reason for r in records}
    assert found["Weak"].total == sum(r.values.get("weak") is True for r in results.records) == 12
    assert found["Not run yet"].total == len(results.missing) == 27
    assert NASTY in found["Failed"].gaps[0].detail
    assert "is given the labels" in found["Refused"].gaps[0].reason


def test_deployments_without_a_number_are_in_the_gaps(everyone: list[Deployment]) -> None:
    found = groups(everyone)
    assert [gap.where for gap in found["Unusable"].gaps] == ["#4"]
    known = {(gap.what, gap.reason): gap.where for gap in found["Not evaluated"].gaps}
    assert known["leakage of inputs", "not run yet"] == "#16"
    assert known["leakage of labels", "labels are sent"] == "#1 to #10, #15"
    assert not found["Unusable"].counted
    assert found["Refused"].counted


def test_a_whole_run_has_no_gaps(tmp_path: Path) -> None:
    def fine(record: Record) -> Record:
        values = {**record.values, "lpips": 0.5, "weak": False, "converged": True, "leakage": 0.3}
        half = {"leakage": {"choose": 0.3, "report": 0.3, "low": 0.2, "high": 0.4}}
        return replace(record, status="ok", reason=None, values=values, extra={**record.extra, "halves": half})

    case = Case("u-shaped", ("conv1", "fc2"), labels="client")
    shown = deployments(load(write_run(tmp_path / "run", cases=[case], seeds=[0], change=fine)))
    assert gaps(shown) == []


def test_the_facts_of_the_run(results: Results, everyone: list[Deployment]) -> None:
    said = overview(results, everyone)
    facts = dict(said.facts)
    assert said.subtitle == "faces, lenet: 17 deployments, 5 attacks, 3 seeds"
    assert facts["Records"].startswith("90 failed, 282 ok, 60 refused; 12 of the finished ones weak; 27 not run yet")
    assert "104 training, 48 test, 24 auxiliary rows" in facts["Data"]
    assert "head trained or frozen" in facts["Training"]
    assert said.source == SOURCE
    [(profile, knows)] = said.adversaries
    assert profile == "head-known"
    assert "knows their weights" in knows
    assert "may deviate" not in knows
    assert ("commit", ENVIRONMENT["commit"]) in said.versions
    assert said.others == ()


def test_records_of_other_code_are_named(tmp_path: Path) -> None:
    def older(record: Record) -> Record:
        return replace(record, environment={**ENVIRONMENT, "commit": "old"}) if record.cell.seed else record

    results = load(write_run(tmp_path / "run", cases=[CASES[0]], seeds=[0, 1], change=older))
    [line] = overview(results, deployments(results)).others
    assert line == "9 records came from splitguard 0.1.0, commit old, dirty no"


def test_static_attacks_and_active_adversaries_are_told_so(tmp_path: Path) -> None:
    results = load(write_run(tmp_path / "run", cases=[replace(CASES[0], profile="active", adaptive=False)], seeds=[0]))
    [(profile, knows)] = overview(results, deployments(results)).adversaries
    assert profile == "active, static"
    assert "and may deviate from the protocol" in knows
    assert "too weak for a sign-off" in knows
