# SPDX-License-Identifier: Apache-2.0
"""The game "which of N candidates was sent": what no attacker can beat, and what the matching attack reaches.

One of N candidate inputs, drawn uniformly, is released T times as ``clip_C(z) + N(0, sigma^2 I)``; the attacker knows
all candidates, the head and sigma, and names one. Both functions return a probability of being right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.integrate import quad
from scipy.special import log_ndtr, ndtr, ndtri

from splitguard.errors import BadSetting
from splitguard.privacy.accounting import mu_of

__all__ = ["candidate_bound", "candidate_orthogonal"]


def candidate_bound(*, candidates: int, sigma: float | Sequence[float], clip: float, releases: int = 1) -> float:
    """The largest P(correct) of any attacker, whatever the candidates are.

        P(correct) <= Phi(Phi^-1(1/N) + s),    s = sqrt(sum_t (C / sigma_t)^2) = sqrt(T) C / sigma

    Every candidate's releases are s-GDP against those of the zero row, so a test that accepts candidate i with
    probability q_i on noise alone accepts it with at most Phi(Phi^-1(q_i) + s) where it was sent; the q_i sum to at
    most 1, and the right side is concave in q_i. Met with equality by two opposite candidates of norm C. Source: Hayes,
    Mahloujifar, Balle, NeurIPS 2023 (arXiv 2302.07225), in the closed form of Kaissis et al. (arXiv 2307.03928); here
    the prior is uniform on the candidates and the reference is the zero row.

    Args:
        candidates: N, at least 2.
        sigma: standard deviation of the noise, at least 0; a sequence has one entry a release.
        clip: C > 0, the largest L2 norm of a clipped row.
        releases: T, how often the row is sent with this sigma.

    Returns:
        A probability in 1/N..1; 1 for sigma 0.

    Raises:
        BadSetting: for a value outside its range.
    """
    count = _candidates(candidates)
    signal = mu_of(sigma=sigma, clip=clip, releases=releases, adjacency="zero-out")
    return float(ndtr(ndtri(1 / count) + signal))


def candidate_orthogonal(*, candidates: int, sigma: float | Sequence[float], clip: float, releases: int = 1) -> float:
    """P(correct) of the matching attack where the N candidates are orthogonal and each has norm C.

        integral phi(x - s) Phi(x)^(N-1) dx,    s as in `candidate_bound`

    The attack names the candidate with the smallest joint squared distance to the releases (each weighted by
    1/sigma_t^2), which is the most likely one, so that no attacker does better on these candidates. Their scores are
    independent, N(s, 1) for the one that was sent and N(0, 1) for the others. Needs N dimensions. Integrated
    numerically, to 1e-9 relative.

    Args and errors are those of `candidate_bound`; the result lies in 1/N..`candidate_bound`.
    """
    count = _candidates(candidates)
    signal = mu_of(sigma=sigma, clip=clip, releases=releases, adjacency="zero-out")
    if signal > 40:  # the highest of even 1e100 others is about 21
        return 1.0

    def density(x: float) -> float:
        return math.exp(float((count - 1) * log_ndtr(x)) - (x - signal) ** 2 / 2) / math.sqrt(2 * math.pi)

    # Phi(x)^(N-1) only falls to the left, so what lies outside is below phi's own tail, 1e-37.
    value, _ = quad(density, signal - 13, signal + 13, epsabs=0, epsrel=1e-10, limit=200)
    return min(float(value), 1.0)


def _candidates(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise BadSetting(f"candidates must be a whole number of at least 2; got {value!r}")
    return value
