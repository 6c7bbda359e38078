# SPDX-License-Identifier: Apache-2.0
"""Intervals and comparisons: over victims by bootstrap, over seeds by Student's t, of shares by Clopper-Pearson."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from splitguard.errors import BadSetting

__all__ = [
    "Difference",
    "Interval",
    "bootstrap",
    "clopper_pearson",
    "paired_difference",
    "pareto_front",
    "spearman",
    "t_interval",
]

Array = npt.NDArray[Any]
_NUMBERS_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class Interval:
    """A confidence interval, and what it is over.

    Attributes:
        low: lower end.
        high: upper end.
        level: coverage, as 0.95; two-sided.
        kind: how it was made: over victims and one seed, over seeds, or of a share.
    """

    low: float
    high: float
    level: float
    kind: Literal["bootstrap over victims", "student t over seeds", "clopper-pearson"]


@dataclass(frozen=True)
class Difference:
    """A mean difference a - b over paired seeds.

    Attributes:
        mean: of the differences.
        interval: two-sided, None with one pair.
        at_least: one-sided lower limit at the same level: "a exceeds b by at least this". None with one pair.
        at_most: one-sided upper limit at the same level. None with one pair.
        n: number of pairs.
    """

    mean: float
    interval: Interval | None
    at_least: float | None
    at_most: float | None
    n: int


def bootstrap(
    statistic: Callable[..., Array],
    *samples: npt.ArrayLike,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval | None:
    """The percentile bootstrap interval of a statistic over victims.

    Args:
        statistic: takes one (R, N) array for each sample and gives (R,); NaN where it is undefined. The same victims
            are drawn for all samples, so paired values stay paired.
        *samples: each (N,), one value a victim, in the same order.
        generator: draws the victims.
        level: coverage.
        resamples: how often N victims are drawn with replacement. Percentiles of 2,000 wobble by about 2 % of the
            interval's width.

    Returns:
        The interval, over the resamples where the statistic is defined. None with one victim, or where fewer than half
        of the resamples define it. It says nothing about other seeds, and is somewhat narrow below 30 victims.

    Raises:
        BadSetting: for samples of other shapes, or settings out of range.

    Source: Efron, Tibshirani, An introduction to the bootstrap, 1993, chapter 13.
    """
    _check_level(level)
    arrays = [np.asarray(s) for s in samples]
    if not arrays or any(a.ndim != 1 or len(a) != len(arrays[0]) for a in arrays) or len(arrays[0]) == 0:
        raise BadSetting(f"samples must be (N,), all of one length; got shapes {[a.shape for a in arrays]}")
    if resamples < 100:
        raise BadSetting(f"resamples must be at least 100; got {resamples}")
    n = len(arrays[0])
    if n == 1:
        return None
    at_once = max(1, _NUMBERS_AT_ONCE // n)
    parts = []
    for start in range(0, resamples, at_once):
        index = generator.integers(0, n, size=(min(at_once, resamples - start), n))
        parts.append(statistic(*(a[index] for a in arrays)))
    values = np.concatenate(parts)
    defined = values[~np.isnan(values)]
    if len(defined) < resamples / 2:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, "bootstrap over victims")


def t_interval(values: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """Student's t interval of a mean over seeds: ``mean +- t_(n-1) s / sqrt(n)``.

    Args:
        values: one a seed, finite.
        level: coverage.

    Returns:
        The interval; None for one value, whose spread is unknown (not zero). With 3 seeds it is 2.5 standard deviations
        to either side.

    Raises:
        BadSetting: for no value, or values that are not finite.
    """
    _check_level(level)
    x = _finite(values, "values")
    half = _half_width(x, (1 + level) / 2)
    if half is None:
        return None
    return Interval(float(x.mean() - half), float(x.mean() + half), level, "student t over seeds")


def paired_difference(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> Difference:
    """The mean of a - b over seeds, with limits; the same seeds and victims must stand behind both.

    Args:
        a: one value a seed, finite.
        b: one value a seed, the same seeds in the same order.
        level: coverage of the two-sided interval, and of each one-sided limit by itself.

    Raises:
        BadSetting: for different lengths, no value, or values that are not finite.
    """
    _check_level(level)
    x, y = _finite(a, "a"), _finite(b, "b")
    if len(x) != len(y):
        raise BadSetting(f"paired values need one partner each; got {len(x)} and {len(y)}")
    d = x - y
    mean, side = float(d.mean()), _half_width(d, level)
    return Difference(
        mean=mean,
        interval=t_interval([float(v) for v in d], level=level),
        at_least=None if side is None else mean - side,
        at_most=None if side is None else mean + side,
        n=len(d),
    )


def clopper_pearson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """The exact interval of a share, from ``successes`` in ``n`` independent trials; it covers at least ``level``.

    Two-sided: each end by itself holds at (1 + level) / 2. With no success in 64 trials the 95 % upper end is 0.056.

    Raises:
        BadSetting: unless 0 <= successes <= n and n >= 1.

    Source: Clopper, Pearson, Biometrika 1934.
    """
    from scipy.stats import beta

    _check_level(level)
    if not (n >= 1 and 0 <= successes <= n):
        raise BadSetting(f"successes must lie in 0..n, n at least 1; got {successes} of {n}")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - tail, successes + 1, n - successes))
    return Interval(low, high, level, "clopper-pearson")


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation in [-1, 1], ties by mean rank; None below 3 pairs or where a or b is constant.

    Raises:
        BadSetting: for different lengths, or values that are not finite.
    """
    from scipy.stats import spearmanr

    x, y = _finite(a, "a"), _finite(b, "b")
    if len(x) != len(y):
        raise BadSetting(f"a correlation needs pairs; got {len(x)} and {len(y)} values")
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(spearmanr(x, y).statistic)


def pareto_front(points: Sequence[Sequence[float]], *, larger_is_better: Sequence[bool]) -> list[int]:
    """The points that no other point beats: as good in every measure and better in one.

    Args:
        points: M points of K measures each, finite.
        larger_is_better: K, for each measure its direction.

    Returns:
        Their positions, ascending. Equal points are all on the front, or none of them.

    Raises:
        BadSetting: for points of another length, or values that are not finite.
    """
    if not points:
        return []
    if any(len(p) != len(larger_is_better) for p in points) or not larger_is_better:
        raise BadSetting(
            f"each point needs {len(larger_is_better)} measures, at least one; got {list(map(len, points))}"
        )
    x = np.stack([_finite(p, "points") for p in points]) * np.where(larger_is_better, 1.0, -1.0)
    return [i for i, p in enumerate(x) if not ((x >= p).all(axis=1) & (x > p).any(axis=1)).any()]


def _half_width(x: Array, quantile: float) -> float | None:
    """``t_(n-1) s / sqrt(n)``; None for one value."""
    from scipy.stats import t

    if len(x) < 2:
        return None
    return float(t.ppf(quantile, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))


def _finite(values: Sequence[float], what: str) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise BadSetting(
            f"{what} must be at least one finite number; got {values!r}: leave missing ones out, pair by pair"
        )
    return x


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise BadSetting(f"level must lie strictly between 0 and 1; got {level}")
