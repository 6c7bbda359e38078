# SPDX-License-Identifier: Apache-2.0
"""Epsilon and noise of repeated clipped Gaussian releases, exactly.

The mechanism, for one row: each release is ``clip_C(z) + N(0, sigma^2 I)``, the clip in L2 over all coordinates of that
row alone. T releases of one row are exactly mu-GDP, even where a later release depends on earlier ones:

    mu    = sqrt(sum_t (Delta / sigma_t)^2)                                  = sqrt(T) Delta / sigma for equal sigma
    delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu)

Nothing is gained from subsampling: the server sees whose row each message is. Source: Dong, Roth, Su, "Gaussian
Differential Privacy", JRSS-B 2022 (corollaries 2.13 and 3.3); Balle and Wang, ICML 2018 (theorem 8).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Literal, get_args

from scipy.optimize import brentq
from scipy.special import erfcx, ndtr, ndtri

from splitguard.errors import BadSetting, near_miss

__all__ = [
    "MEANINGLESS",
    "OPACUS_WINDOW",
    "Adjacency",
    "compose_mu",
    "delta_of",
    "epsilon",
    "epsilon_of",
    "mu_of",
    "sensitivity",
    "sigma",
    "verdict",
]

Adjacency = Literal["replace-one", "zero-out"]
MEANINGLESS = 50.0  # above this epsilon a page says "no meaningful guarantee"
OPACUS_WINDOW = 500.0  # Opacus' eps_from_mu searches [0, 500] and raises outside


def sensitivity(clip: float, adjacency: Adjacency = "replace-one") -> float:
    """L2 sensitivity Delta of one clipped row: how far a neighbouring input can move it.

    Args:
        clip: C > 0, the largest L2 norm of a row, over all its coordinates.
        adjacency: ``"replace-one"``: any input against any other in the same slot, Delta = 2C. ``"zero-out"``: an
            input against the zero row, Delta = C; the weaker statement, and to be named wherever it is used.

    Raises:
        BadSetting: for a clip that is not positive and finite, or an unknown adjacency.
    """
    if adjacency not in get_args(Adjacency):
        raise BadSetting(near_miss(str(adjacency), get_args(Adjacency), what="adjacency"))
    _positive("clip", clip)
    return 2.0 * clip if adjacency == "replace-one" else float(clip)


def mu_of(
    *, sigma: float | Sequence[float], clip: float, releases: int = 1, adjacency: Adjacency = "replace-one"
) -> float:
    """The Gaussian-DP parameter mu of all releases of one row, in 0..inf; 0 is perfect privacy.

    Args:
        sigma: standard deviation of the noise, in units of the smashed data, at least 0; a sequence has one entry a
            release.
        clip: C > 0, in the same units.
        releases: T, how often a row is sent with this sigma; stays 1 where ``sigma`` is a sequence.
        adjacency: as in `sensitivity`.

    Returns:
        ``sqrt(T) Delta / sigma``, or ``sqrt(sum_t (Delta / sigma_t)^2)``; `math.inf` if any sigma is 0.

    Raises:
        BadSetting: for a value outside its range.
    """
    change = sensitivity(clip, adjacency)
    count = _count(releases)
    if isinstance(sigma, Sequence):
        if count != 1:
            raise BadSetting(
                f"a sequence of sigmas has one entry a release; got {len(sigma)} of them and releases={count}. "
                "Leave releases out, and repeat a sigma that is used more than once"
            )
        if not sigma:
            raise BadSetting("sigma is an empty sequence: give one standard deviation a release")
        return compose_mu(change / s if (s := _at_least_0("sigma", one)) else math.inf for one in sigma)
    scale = _at_least_0("sigma", sigma)
    return math.sqrt(count) * change / scale if scale else math.inf


def compose_mu(mus: Iterable[float]) -> float:
    """``sqrt(sum mu_t^2)``: mu of several mechanisms on one row, each chosen after seeing the ones before."""
    return math.hypot(*mus)


def delta_of(epsilon: float, mu: float) -> float:
    """The smallest delta at which a mu-GDP mechanism is (epsilon, delta)-DP; the hockey-stick divergence.

    Args:
        epsilon: at least 0.
        mu: at least 0, as from `mu_of`; `math.inf` gives 1.
    """
    _at_least_0("epsilon", epsilon)
    if _at_least_0("mu", mu, finite=False) == 0:
        return 0.0
    if math.isinf(mu):
        return 1.0
    return math.exp(_log_delta(mu, mu / 2 - epsilon / mu))


def epsilon_of(mu: float, delta: float) -> float:
    """The smallest epsilon at which a mu-GDP mechanism is (epsilon, delta)-DP.

    Opacus' `eps_from_mu`, so that the number is that library's. At both ends, where that raises or (mu < .01) rounds,
    this answers by itself: exactly 0 where ``delta >= delta_of(0, mu)``; the root in log space, also above 500;
    `math.inf` where mu is infinite (a release without noise) or epsilon exceeds the largest float.
    """
    _probability("delta", delta)
    if _at_least_0("mu", mu, finite=False) == 0 or math.isinf(mu):
        return mu
    if mu >= 0.01:
        from opacus.accountants.analysis.gdp import delta_eps_mu, eps_from_mu

        if delta_eps_mu(eps=0.0, mu=mu) > delta > delta_eps_mu(eps=OPACUS_WINDOW, mu=mu):
            return float(eps_from_mu(mu=mu, delta=delta))
    # In u = mu/2 - epsilon/mu the root is bracketed without search: delta < Phi(u), and epsilon = 0 at u = mu/2.
    goal = math.log(delta)
    if _log_delta(mu, mu / 2) <= goal:
        return 0.0
    u = brentq(lambda u: _log_delta(mu, u) - goal, float(ndtri(delta)), mu / 2, xtol=1e-14, rtol=1e-14)
    return mu * (mu / 2 - float(u))


def epsilon(
    *,
    sigma: float | Sequence[float],
    clip: float,
    releases: int = 1,
    delta: float,
    adjacency: Adjacency = "replace-one",
) -> float:
    """The exact epsilon of ``releases`` clipped Gaussian releases of one row.

    Args:
        sigma: standard deviation of the noise, at least 0; a sequence has one entry a release.
        clip: C > 0, the largest L2 norm of a row.
        releases: T: training passes, evaluations that send the row, and queries on it.
        delta: in (0, 1), below one over the number of rows for a statement worth making.
        adjacency: as in `sensitivity`.

    Returns:
        Epsilon, in 0..inf; 0.0 exactly where ``delta >= delta_of(0, mu)``, `math.inf` for sigma 0. See `verdict`.

    Raises:
        BadSetting: for a value outside its range.

    >>> round(epsilon(sigma=2.0, clip=1.0, releases=10, delta=1e-5), 2)
    17.86
    """
    return epsilon_of(mu_of(sigma=sigma, clip=clip, releases=releases, adjacency=adjacency), delta)


def sigma(
    *, epsilon: float, clip: float, releases: int = 1, delta: float, adjacency: Adjacency = "replace-one"
) -> float:
    """The least noise with which ``releases`` releases of one row are (epsilon, delta)-DP: the inverse of `epsilon`.

    Returns:
        The standard deviation, in units of ``clip``, rounded up by one part in 1e9: its epsilon is never above what
        was asked for (down to 1e-4; below, floats round more than that).

    Raises:
        BadSetting: for a value outside its range; epsilon must be positive and finite.

    >>> round(sigma(epsilon=8.0, clip=1.0, releases=10, delta=1e-5), 2)
    3.8
    """
    change = sensitivity(clip, adjacency)
    count = _count(releases)
    _positive("epsilon", epsilon)
    _probability("delta", delta)
    goal = math.log(delta)

    def excess(log_mu: float) -> float:
        mu = math.exp(log_mu)
        return _log_delta(mu, mu / 2 - epsilon / mu) - goal

    # delta < Phi(mu/2 - epsilon/mu), so the mu at which that equals delta is too small; a little less, for rounding.
    q = float(ndtri(delta))
    root = math.sqrt(q * q + 2 * epsilon)
    low = math.log(2 * epsilon / (root - q) if q < 0 else q + root) - 1e-6
    high = low + 1
    while excess(high) < 0:
        low, high = high, high + 1
    mu = math.exp(float(brentq(excess, low, high, xtol=1e-13, rtol=1e-13)))
    return math.sqrt(count) * change / mu * (1 + 1e-9)


def verdict(epsilon: float) -> str | None:
    """``"no meaningful guarantee"`` for an epsilon above 50, else None: the number may speak for itself."""
    _at_least_0("epsilon", epsilon, finite=False)
    return "no meaningful guarantee" if epsilon > MEANINGLESS else None


def _log_delta(mu: float, u: float) -> float:
    """Log of delta at epsilon = mu (mu/2 - u), for 0 < mu < inf and u <= mu/2; nothing overflows.

    e^epsilon Phi(-mu/2 - epsilon/mu) = e^(-u^2/2) erfcx((mu - u) / sqrt(2)) / 2, since (mu - u)^2 - u^2 = 2 epsilon.
    """
    far = float(erfcx((mu - u) / math.sqrt(2)))
    if u < 0:
        gap = float(erfcx(-u / math.sqrt(2))) - far
        return math.log(gap / 2) - u * u / 2 if gap > 0 else -math.inf
    gap = float(ndtr(u)) - math.exp(-u * u / 2) * far / 2
    return math.log(gap) if gap > 0 else -math.inf


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadSetting(f"{name} must be a number; got {value!r}, a {type(value).__name__}")
    return float(value)


def _positive(name: str, value: float) -> None:
    if not 0 < _number(name, value) < math.inf:
        raise BadSetting(f"{name} must be positive and finite; got {value!r}")


def _probability(name: str, value: float) -> None:
    if not 0 < _number(name, value) < 1:
        raise BadSetting(f"{name} must lie strictly between 0 and 1; got {value!r}")


def _at_least_0(name: str, value: float, *, finite: bool = True) -> float:
    number = _number(name, value)
    if not number >= 0 or (finite and math.isinf(number)):
        raise BadSetting(f"{name} must be at least 0{' and finite' if finite else ''}; got {value!r}")
    return number


def _count(value: int) -> int:
    number = _number("releases", value)
    if not 1 <= number < math.inf or number != int(number):
        raise BadSetting(f"releases must be a whole number of at least 1; got {value!r}")
    return int(number)
