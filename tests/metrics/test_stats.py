# SPDX-License-Identifier: Apache-2.0
"""Intervals and comparisons against SciPy, coverage by simulation, and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from splitguard import seeding
from splitguard.errors import BadSetting
from splitguard.metrics import bootstrap, clopper_pearson, paired_difference, pareto_front, spearman, t_interval
from splitguard.metrics.stats import Array


def mean(rows: Array) -> Array:
    return np.asarray(rows.mean(axis=1))


def rng(*names: str | int) -> np.random.Generator:
    return seeding.numpy_generator(0, "test stats", *names)


def test_bootstrap_is_scipys_percentile_interval() -> None:
    x = rng().exponential(size=50)
    ours = bootstrap(mean, x, generator=rng("a"), resamples=20_000)
    theirs = scipy.stats.bootstrap((x,), np.mean, n_resamples=20_000, method="percentile", rng=rng("b"))
    assert ours is not None
    width = ours.high - ours.low
    # percentiles of 20,000 resamples differ by well under 3 % of the width between two streams
    assert abs(ours.low - theirs.confidence_interval.low) < 0.03 * width
    assert abs(ours.high - theirs.confidence_interval.high) < 0.03 * width
    assert (ours.level, ours.kind) == (0.95, "bootstrap over victims")


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    hits = 0
    for i in range(200):
        found = bootstrap(mean, rng("data", i).normal(size=64), generator=rng("draws", i), resamples=400, level=0.9)
        assert found is not None
        hits += found.low <= 0 <= found.high
    assert abs(hits - 0.9 * 200) < 4 * (200 * 0.9 * 0.1) ** 0.5  # four standard errors


def test_bootstrap_keeps_pairs_together_and_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng().normal(size=40)
    same = bootstrap(lambda a, b: mean(a - b), x, x - 2, generator=rng("s"))
    assert same is not None
    assert (same.low, same.high) == pytest.approx((2, 2))
    whole = bootstrap(mean, x, generator=rng("s"))
    assert whole == bootstrap(mean, x, generator=rng("s"))
    assert whole != bootstrap(mean, x, generator=rng("other"))
    monkeypatch.setattr("splitguard.metrics.stats._NUMBERS_AT_ONCE", 40 * 7)  # in parts: the same draws
    assert bootstrap(mean, x, generator=rng("s")) == whole


def test_bootstrap_is_missing_where_it_says_nothing() -> None:
    assert bootstrap(mean, [0.5], generator=rng()) is None
    assert bootstrap(lambda a: np.full(len(a), np.nan), [1.0, 2.0], generator=rng()) is None
    some = bootstrap(lambda a: np.where(a.min(axis=1) > 1, np.nan, mean(a)), [1.0, 2.0, 3.0], generator=rng())
    assert some is not None
    assert 1 <= some.low <= some.high <= 3


def test_bootstrap_refuses() -> None:
    refused: tuple[list[Any], ...] = ([[1.0, 2.0], [1.0]], [[]], [], [[[1.0, 2.0]]])
    for samples in refused:
        with pytest.raises(BadSetting, match="one length"):
            bootstrap(mean, *samples, generator=rng())
    with pytest.raises(BadSetting, match="at least 100; got 10"):
        bootstrap(mean, [1.0, 2.0], generator=rng(), resamples=10)
    with pytest.raises(BadSetting, match="strictly between 0 and 1; got 95"):
        bootstrap(mean, [1.0, 2.0], generator=rng(), level=95)


def test_t_interval_is_scipys_and_missing_for_one_seed() -> None:
    x = [0.81, 0.83, 0.80]
    theirs = scipy.stats.ttest_1samp(x, 0).confidence_interval(0.9)
    ours = t_interval(x, level=0.9)
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.kind == "student t over seeds"
    assert t_interval([0.8]) is None
    for bad in ([], [0.8, float("nan")]):
        with pytest.raises(BadSetting, match="leave missing ones out"):
            t_interval(bad)


def test_paired_difference_is_scipys_paired_t() -> None:
    a, b = [0.90, 0.88, 0.93, 0.91], [0.85, 0.86, 0.84, 0.88]
    ours = paired_difference(a, b)
    two, less, greater = (
        scipy.stats.ttest_rel(a, b, alternative=side).confidence_interval(0.95)
        for side in ("two-sided", "less", "greater")
    )
    assert ours.interval is not None
    assert (ours.interval.low, ours.interval.high) == pytest.approx((two.low, two.high))
    assert (ours.at_least, ours.at_most) == pytest.approx((greater.low, less.high))
    assert ours.mean == pytest.approx(0.0475)
    assert ours.n == 4
    one = paired_difference([0.9], [0.8])
    assert (one.interval, one.at_least, one.at_most) == (None, None, None)
    with pytest.raises(BadSetting, match="one partner each; got 1 and 2"):
        paired_difference([1.0], [1.0, 2.0])


@settings(max_examples=40)
@given(st.integers(1, 80).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_clopper_pearson_is_scipys(counts: tuple[int, int]) -> None:
    successes, n = counts
    theirs = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    ours = clopper_pearson(successes, n)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_clopper_pearson_of_none_and_all_is_its_closed_form() -> None:
    assert clopper_pearson(0, 64).low == 0
    assert clopper_pearson(0, 64).high == pytest.approx(1 - 0.025 ** (1 / 64))
    assert clopper_pearson(64, 64).high == 1
    for bad in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(BadSetting, match=r"0\.\.n"):
            clopper_pearson(*bad)


def test_spearman_is_scipys_and_missing_where_there_is_no_order() -> None:
    a, b = [1.0, 2.0, 2.0, 5.0, 4.0], [0.1, 0.3, 0.2, 0.9, 0.3]
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(BadSetting, match="needs pairs; got 3 and 4"):
        spearman([1, 2, 3], [1, 2, 3, 4])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_the_front_is_what_nobody_beats(points: list[tuple[int, int]]) -> None:
    """First measure: larger is better; second: smaller."""
    front = pareto_front(points, larger_is_better=(True, False))
    for i, (gain, cost) in enumerate(points):
        beaten = any((g >= gain and c <= cost) and (g > gain or c < cost) for g, c in points)
        assert (i in front) == (not beaten)
    assert bool(front) == bool(points)


def test_the_front_refuses_points_of_other_lengths() -> None:
    with pytest.raises(BadSetting, match="2 measures"):
        pareto_front([(1.0,)], larger_is_better=(True, False))
