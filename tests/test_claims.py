# SPDX-License-Identifier: Apache-2.0
"""A paper's number is held against what redraws of its victims would give; an order against the next step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import scipy.stats
from scipy.stats import binom

from benchmarks.reproduce.__main__ import _line
from benchmarks.reproduce.claims import Finding, holding, judge
from benchmarks.reproduce.frontier import excess
from splitguard.errors import BadSetting
from splitguard.matrix import Results


def results(*records: tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]) -> Results:
    """Records of a column each, their values, and their victims' arrays."""

    def made(row: dict[str, Any], values: dict[str, Any], arrays: dict[str, Any] | None) -> SimpleNamespace:
        cell = SimpleNamespace(data={"test": 400}, training={"epochs": 3}, seed=row.get("seed", 0))
        extra = {"budget": {"steps": row["steps"]}} if "steps" in row else {}
        return SimpleNamespace(status="ok", values=values, cell=cell, row=lambda: row, arrays=arrays, extra=extra)

    found = [made(*record) for record in records]
    return cast(Results, SimpleNamespace(records=found, victims=lambda record: record.arrays))


def one(claim: dict[str, Any], found: Results, victims: int = 25) -> Finding:
    [finding] = judge({"what": "it", **claim}, found, victims=victims)
    return finding


def test_a_published_number_holds_inside_the_interval_or_where_ours_is_stronger() -> None:
    scores = np.linspace(0.4, 0.6, 101)
    found = results(({"attack": "a"}, {"ssim": 0.5, "mse": 0.5}, {"score_ssim": scores, "score_mse": scores}))
    half = 1.96 * scores.std() / 5  # of 25 victims
    for metric, weaker, stronger in (("ssim", 0.7, 0.3), ("mse", 0.3, 0.7)):
        for published, holds in ((0.5 + 0.9 * half, True), (0.5 - 0.9 * half, True), (weaker, False), (stronger, True)):
            claim = {"metric": metric, "where": {"attack": "a"}, "published": published}
            finding = one(claim, found)
            assert finding.holds is holds
            assert (finding.low, finding.high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.004)
            assert finding.ours == pytest.approx(0.5)
            assert finding.n == 101


def test_a_number_with_a_factor_holds_up_to_it_whatever_the_interval() -> None:
    spread = np.array([0.0, 0.4])  # so wide that any number lies in the interval of three victims
    found = results(({"attack": "a"}, {"mse@500": 0.2, "ssim": 0.2}, {"score_mse@500": spread, "score_ssim": spread}))
    for metric, published, holds in (("mse@500", 0.2 / 1.14, True), ("mse@500", 0.2 / 1.16, False)):
        finding = one({"metric": metric, "where": {"attack": "a"}, "published": published, "factor": 1.15}, found, 3)
        assert (finding.holds, finding.fidelity) == (holds, "published-factor")
    for published, holds in ((0.2 * 1.14, True), (0.2 * 1.16, False)):  # of which more is the stronger attack
        claim = {"metric": "ssim", "where": {"attack": "a"}, "published": published, "factor": 1.15}
        assert one(claim, found, 3).holds is holds
    claim = {"metric": "mse@500", "where": {"attack": "a"}, "published": 0.19, "factor": 1.15}
    finding = one(claim, results(({"attack": "a"}, {"mse@500": 0.2}, None)))
    assert _line(finding).endswith("| yes, within a factor of 1.15 |")


def test_where_the_paper_does_not_say_how_many_victims_the_interval_is_for_as_many_as_ours() -> None:
    scores = np.linspace(0.4, 0.6, 101)
    found = results(({"attack": "a"}, {"ssim": 0.5}, {"score_ssim": scores}))
    claim = {"what": "it", "metric": "ssim", "where": {"attack": "a"}, "published": 0.5}
    unknown, as_many, fewer = (judge(claim, found, victims=victims)[0] for victims in (None, 101, 4))
    assert unknown == as_many
    assert fewer.low is not None
    assert unknown.low is not None
    assert fewer.low < unknown.low - 0.03


def test_the_steps_of_each_attack_are_the_most_of_its_runs_and_stand_on_the_page() -> None:
    taken = {"a": (300, 500), "b": (900, 700), "c": ()}
    found = results(
        *(({"attack": name, "steps": steps}, {"ssim": 0.5}, None) for name, each in taken.items() for steps in each),
        ({"attack": "a", "steps": 10**6}, {"mse": 0.5}, None),  # which has nothing to do with the metric
        ({"attack": "c"}, {"ssim": 0.6}, None),
    )
    claim = {"what": "it", "metric": "ssim", "rising": [{"attack": name} for name in taken]}
    steps = judge(claim, found, victims=5)
    assert [step.steps for step in steps] == [500, 900, None]
    assert " | 2 | 500 | order-only | " in _line(steps[0])
    assert " | 1 |  | order-only | " in _line(steps[2])
    assert one({"metric": "ssim", "where": {"attack": "b"}, "published": 0.5}, found).steps == 900


def test_an_accuracy_is_an_interval_over_its_test_rows() -> None:
    found = results(({"attack": "a"}, {"stolen_accuracy": 0.9}, None))
    finding = one({"metric": "stolen_accuracy", "where": {"attack": "a"}, "published": 0.91}, found, victims=1000)
    low, high = binom.ppf((0.025, 0.975), 1000, 0.9) / 1000
    assert (finding.low, finding.high) == pytest.approx((low, high), abs=0.003)
    assert finding.n == 400
    assert finding.holds


def test_an_order_is_held_step_by_step() -> None:
    found = results(
        *(({"cut": cut}, {"label_auc": value}, None) for cut, value in (("a", 0.5), ("b", 0.7), ("c", 0.6)))
    )
    steps = judge({"what": "it", "metric": "label_auc", "rising": [{"cut": c} for c in "abc"]}, found, victims=5)
    assert [s.holds for s in steps] == [None, True, False]
    assert not holding(steps)
    assert holding(steps[:2])


def by_seeds(column: str, values: dict[str, list[float]], metric: str = "label_auc") -> list[Any]:
    """A record for each value and seed."""
    return [
        ({column: name, "seed": seed}, {metric: value}, None)
        for name, each in values.items()
        for seed, value in enumerate(each)
    ]


@pytest.mark.parametrize(
    ("after", "holds", "clear"),
    [
        ([0.61, 0.72, 0.79], True, True),  # + .11, .12, .09, whatever the spread of either
        ([0.9, 0.5, 0.9], True, False),
        ([0.8, 0.72, 0.64], True, False),  # + .14, .12, .1 if each were held against another's seed
        ([0.4, 0.3, 0.8], False, False),
        ([0.39, 0.48, 0.61], False, True),
        ([0.5, 0.6, 0.7], True, False),  # a tie is an order, and no seed supports it
    ],
)
def test_an_order_is_clear_where_the_paired_seeds_support_it(after: list[float], holds: bool, clear: bool) -> None:
    before = [0.5, 0.6, 0.7]
    found = results(*by_seeds("cut", {"a": before, "b": after}))
    steps = judge({"what": "it", "metric": "label_auc", "rising": [{"cut": "a"}, {"cut": "b"}]}, found, victims=5)
    assert [(s.holds, s.clear) for s in steps] == [(None, None), (holds, clear)]
    limit = scipy.stats.ttest_rel(after, before, alternative="greater" if holds else "less").pvalue
    assert np.isnan(limit) or bool(limit < 0.05) is clear


def test_a_margin_is_part_of_what_the_seeds_must_support() -> None:
    found = results(*by_seeds("cut", {"a": [0.5, 0.6, 0.7], "b": [0.61, 0.72, 0.79]}))
    claim = {"what": "it", "metric": "label_auc", "rising": [{"cut": "a"}, {"cut": "b"}]}
    steps = [judge({**claim, "margin": margin}, found, victims=5)[1] for margin in (0, 0.105, 0.2)]
    assert [(s.holds, s.clear) for s in steps] == [(True, True), (True, False), (False, True)]


def test_an_order_of_one_seed_or_of_unpaired_seeds_is_not_tested_and_the_page_says_so() -> None:
    claim = {"what": "it", "metric": "label_auc", "rising": [{"cut": "a"}, {"cut": "b"}]}
    others = (("a", 0, 0.5), ("a", 1, 0.5), ("b", 2, 0.7))
    apart: list[Any] = [({"cut": cut, "seed": seed}, {"label_auc": value}, None) for cut, seed, value in others]
    for records in (by_seeds("cut", {"a": [0.5], "b": [0.7]}), apart):
        step = judge(claim, results(*records), victims=5)[1]
        assert (step.holds, step.clear) == (True, None)
        assert _line(step).endswith("| yes, untested |")
    tested = judge(claim, results(*by_seeds("cut", {"a": [0.5, 0.5, 0.5], "b": [0.8, 0.4, 0.4]})), victims=5)[1]
    assert _line(tested).endswith("| yes, n.s. |")
    tested = judge(claim, results(*by_seeds("cut", {"a": [0.5, 0.6], "b": [0.31, 0.4]})), victims=5)[1]
    assert _line(tested).endswith("| no |")
    published = {"what": "it", "metric": "label_auc", "where": {"cut": "a"}, "published": 0.2}
    assert _line(one(published, results(*by_seeds("cut", {"a": [0.5]})))).endswith("| ours is stronger |")


def test_two_trades_are_compared_at_equal_utility_seed_by_seed() -> None:
    def record(seed: int, defense: str, auc: float, leak: float) -> Any:
        return {"defense": defense, "seed": seed}, {"auc": auc, "label_auc_95": leak}, None

    found = results(
        *(record(s, "none", 0.98, 0.9) for s in range(3)),
        *(record(s, "weak", 0.9, 0.7) for s in range(3)),
        *(record(s, "strong", 0.8, 0.6) for s in range(3)),
        *(record(s, "white", 0.85, 0.75 + 0.01 * s) for s in range(3)),  # the line says .65 there
        *(record(s, "too much", 0.6, 0.99) for s in range(3)),  # beyond the line
    )
    line = [{"defense": name} for name in ("none", "weak", "strong")]
    claim = {"metric": "label_auc_95", "utility": "auc", "line": line}
    others = [{"defense": "white"}, {"defense": "too much"}]
    finding = one({**claim, "others": others}, found)
    each = [0.1, 0.11, 0.12]
    over = scipy.stats.t.interval(0.95, 2, np.mean(each), scipy.stats.sem(each))
    assert (finding.ours, finding.low, finding.high) == pytest.approx((0.11, *over))
    assert (finding.holds, finding.clear, finding.n) == (True, True, 3)
    assert finding.metric == "excess of label_auc_95 at equal auc"
    worse = one({**claim, "others": others, "margin": 0.2}, found)
    assert (worse.holds, worse.clear) == (False, True)
    nowhere = one({**claim, "others": others[1:]}, found)
    assert (nowhere.ours, nowhere.holds, nowhere.fidelity) == (None, None, "not run")


def test_a_trade_is_met_by_its_own_line_and_knows_no_line_of_one_point() -> None:
    line = [(0.9, 0.8), (0.7, 0.5), (0.9, 0.6), (0.8, 0.6)]  # two of one utility: their mean
    assert excess(line, [(0.9, 0.7), (0.75, 0.55), (0.7, 0.5)]) == pytest.approx(0)
    assert excess(line, [(0.85, 0.6)]) == pytest.approx(-0.05)
    assert excess(line[:1], [(0.9, 0.8)]) is None


def test_what_was_not_run_is_said_and_never_a_number() -> None:
    found = results(({"attack": "a"}, {"ssim": 0.5}, None))
    finding = one({"metric": "ssim", "where": {"attack": "b"}, "published": 0.5}, found)
    assert (finding.ours, finding.holds, finding.fidelity) == (None, None, "not run")


def test_a_claim_that_says_nothing_and_a_column_that_is_none_are_refused() -> None:
    found = results(({"attack": "a"}, {"ssim": 0.5}, None))
    with pytest.raises(BadSetting, match="published, rising, line or reference"):
        one({"metric": "ssim", "where": {"attack": "a"}}, found)
    with pytest.raises(BadSetting, match="no column 'atack'"):
        one({"metric": "ssim", "where": {"atack": "a"}, "published": 1}, found)
