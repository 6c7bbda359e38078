# SPDX-License-Identifier: Apache-2.0
"""The answer names a deployment only where the numbers carry it, and says so where none do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from splitguard.matrix import Record, load
from splitguard.metrics.stats import paired_difference
from splitguard.reports.answer import answer, compare
from splitguard.reports.facts import Deployment
from splitguard.reports.gather import deployments
from tests.reports.cases import CASES, DEEPER, Case, gaussian
from tests.reports.outcomes import leaking
from tests.reports.runs import write_run

PLAIN = Case("vanilla", ("conv1",), accuracy=0.85)
GOOD = Case("vanilla", ("conv1",), (gaussian(200),), accuracy=0.80, shield=0.3, epsilon=200)


def small(
    tmp_path: Path, *cases: Case, change: Callable[[Record], Record] = lambda r: r, seeds: tuple[int, ...] = (0, 1)
) -> list[Deployment]:
    return deployments(load(write_run(tmp_path / "run", cases=cases, seeds=seeds, change=change)))


def text(everyone: list[Deployment]) -> str:
    said = answer(everyone)
    return " ".join([said.headline, *said.text]).replace("\N{NO-BREAK SPACE}", " ")


def test_the_most_accurate_of_the_least_leaky_and_clearly_better_ones_is_named(everyone: list[Deployment]) -> None:
    said = answer(everyone)
    found = [c for d in everyone if d.defended and d.usable and (c := compare(d, everyone))]
    clear = [c.deployment for c in found if c.clear and c.worst.supported]
    least = min(clear, key=lambda d: d.number_of("worst_input") or 0)
    alike = [d for d in clear if (d.number_of("worst_input_low") or 0) <= (least.number_of("worst_input_high") or 0)]
    assert least in alike
    assert said.best is max(alike, key=lambda d: d.accuracy or 0)
    assert said.best.number == 6
    whole = text(everyone)
    assert "0.18 [0.13, 0.22]" in whole
    assert "against 0.76 [0.70, 0.83] undefended (#2)" in whole
    assert "3.8 points of test accuracy: 80.7 %, against 84.5 % undefended" in whole
    assert "labels are not protected: the clients send them" in whole


def test_the_difference_is_paired_over_seeds(everyone: list[Deployment]) -> None:
    found = compare(everyone[5], everyone)
    assert found is not None

    def leaks(d: Deployment) -> list[float]:
        worst = ("white-box-inversion", "training")
        mine = [r for r in d.finished("inputs") if (r.cell.attack.name, r.phase) == worst]
        return [r.extra["halves"]["leakage"]["report"] for r in sorted(mine, key=lambda r: r.cell.seed)]

    wanted = paired_difference(leaks(everyone[1]), leaks(everyone[5]))
    assert found.twin.number == 2
    assert found.at_least == pytest.approx(wanted.at_least)
    assert found.clear


def test_a_deployment_that_moves_the_cut_is_held_against_the_plain_one_at_the_first_cut(tmp_path: Path) -> None:
    moved = Case("vanilla", ("conv1",), (DEEPER,), cuts=("conv2",), accuracy=0.85)
    everyone = small(tmp_path, PLAIN, Case("vanilla", ("conv2",)), moved)
    found = compare(everyone[2], everyone)
    assert found is not None
    assert found.twin.number == 1
    assert answer(everyone).best is everyone[2]


def test_nothing_is_recommended_when_the_only_defense_is_unusable(tmp_path: Path) -> None:
    everyone = small(tmp_path, PLAIN, replace(GOOD, accuracy=0.53))
    assert answer(everyone).best is None
    assert "No defended deployment is usable and leaks clearly less of its inputs" in text(everyone)
    assert "Of 1 defended deployment: 1 unusable (#2)." in text(everyone)


def test_nothing_is_recommended_without_a_clear_difference(tmp_path: Path) -> None:
    everyone = small(tmp_path, PLAIN, replace(GOOD, shield=1.0))
    assert answer(everyone).best is None
    assert "1 not clearly less leaky (#2)" in text(everyone)


def test_two_seeds_that_disagree_are_no_clear_difference(tmp_path: Path) -> None:
    def wild(record: Record) -> Record:
        return leaking(record, 0.1 if record.cell.seed else 0.9) if record.cell.defense else record

    assert answer(small(tmp_path, PLAIN, GOOD, change=wild)).best is None


def test_one_seed_needs_intervals_over_victims_that_do_not_touch(tmp_path: Path) -> None:
    everyone = small(tmp_path, PLAIN, GOOD, seeds=(0,))
    found = compare(everyone[1], everyone)
    assert found is not None
    assert (found.at_least, found.clear) == (None, True)
    assert "the two intervals over victims, one seed, do not touch" in text(everyone)


def test_a_weak_attack_carries_no_recommendation(tmp_path: Path) -> None:
    def weak(record: Record) -> Record:
        mine = record.cell.defense and record.cell.goal == "inputs"
        return replace(record, values={**record.values, "weak": True}) if mine else record

    everyone = small(tmp_path, PLAIN, GOOD, change=weak)
    assert answer(everyone).best is None
    assert "1 attacked too weakly to say (#2)" in text(everyone)


def test_what_a_weak_attack_reached_is_a_least(tmp_path: Path) -> None:
    everyone = small(tmp_path, PLAIN, GOOD, change=lambda r: replace(r, values={**r.values, "weak": True}))
    assert "#1 (vanilla · conv1 · undefended) leaks at least 0.9" in text(everyone)


def test_a_deployment_that_was_not_attacked_is_never_the_best(tmp_path: Path) -> None:
    def failed(record: Record) -> Record:
        return replace(record, status="failed", reason="broke") if record.cell.defense else record

    everyone = small(tmp_path, PLAIN, GOOD, change=failed)
    assert answer(everyone).best is None
    assert "1 not evaluated (#2)" in text(everyone)


def test_a_cut_that_leaks_less_without_any_defense_is_named_beside_it(tmp_path: Path) -> None:
    everyone = small(tmp_path, PLAIN, replace(GOOD, shield=0.5), Case("vanilla", ("fc1",)), seeds=(0, 1, 2))
    assert answer(everyone).best is everyone[1]
    assert "Without any defense, #3 (vanilla · fc1 · undefended) measures 0.30" in text(everyone)


def test_a_matrix_without_defenses_says_so(tmp_path: Path) -> None:
    everyone = small(tmp_path, *CASES[:3], seeds=(0, 1, 2))
    assert answer(everyone).headline == "No deployment of this matrix is defended."
    assert "#3 (vanilla · fc1 · undefended) leaks 0.30" in text(everyone)
    assert "#1 (vanilla · conv1 · undefended) leaks 0.95" in text(everyone)


def test_a_run_that_has_not_begun_says_so(tmp_path: Path) -> None:
    everyone = small(tmp_path, replace(PLAIN, run=False), replace(GOOD, run=False))
    assert answer(everyone).headline == "No attack on inputs has finished, so nothing is known about what leaks."
