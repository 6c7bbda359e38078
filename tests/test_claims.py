# SPDX-License-Identifier: Apache-2.0
"""A paper's number is held against what redraws of its victims would give; an order against the next step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.reproduce.claims import Finding, holding, judge
from splitguard.errors import BadSetting
from splitguard.matrix import Results


def results(*records: tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]) -> Results:
    """Records of a column each, their values, and their victims' arrays."""

    def made(row: dict[str, Any], values: dict[str, Any], arrays: dict[str, Any] | None) -> SimpleNamespace:
        cell = SimpleNamespace(data={"test": 400}, training={"epochs": 3})
        return SimpleNamespace(status="ok", values=values, cell=cell, row=lambda: row, arrays=arrays)

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


def test_what_was_not_run_is_said_and_never_a_number() -> None:
    found = results(({"attack": "a"}, {"ssim": 0.5}, None))
    finding = one({"metric": "ssim", "where": {"attack": "b"}, "published": 0.5}, found)
    assert (finding.ours, finding.holds, finding.fidelity) == (None, None, "not run")


def test_a_claim_that_says_nothing_and_a_column_that_is_none_are_refused() -> None:
    found = results(({"attack": "a"}, {"ssim": 0.5}, None))
    with pytest.raises(BadSetting, match="published or rising"):
        one({"metric": "ssim", "where": {"attack": "a"}}, found)
    with pytest.raises(BadSetting, match="no column 'atack'"):
        one({"metric": "ssim", "where": {"atack": "a"}, "published": 1}, found)
