# SPDX-License-Identifier: Apache-2.0
"""Epsilon and noise of repeated clipped Laplace releases, exactly, and what no attacker can beat under them.

The mechanism, for one row: each release is ``clip_C(z) + Laplace(b)^d``, the clip in L1 over all coordinates of that
row alone, each coordinate's noise with density ``exp(-|x| / b) / (2 b)``. T releases of one row are (epsilon, 0)-DP
with

    epsilon = T Delta / b,    Delta in L1: 2C (replace-one) or C (zero-out)

and with no smaller one: the likelihood ratio of two inputs whose clipped rows lie Delta apart along one axis reaches
``exp(Delta / b)`` in every release. This holds where later releases depend on earlier ones, and nothing is gained from
subsampling: the server sees whose row each message is. Source: Dwork, McSherry, Nissim, Smith, TCC 2006.
"""

from __future__ import annotations

import math

from splitguard.errors import BadSetting
from splitguard.privacy.accounting import Adjacency, sensitivity

__all__ = ["accuracy_bound_pure", "candidate_bound_pure", "epsilon_laplace", "scale_laplace"]


def epsilon_laplace(*, scale: float, clip: float, releases: int = 1, adjacency: Adjacency = "replace-one") -> float:
    """The exact pure epsilon of ``releases`` clipped Laplace releases of one row; delta is 0.

    Args:
        scale: b, at least 0, in units of the smashed data; the noise's standard deviation is ``sqrt(2) b``.
        clip: C > 0, the largest L1 norm of a row.
        releases: T: training passes, evaluations that send the row, and queries on it.
        adjacency: ``"replace-one"``: any input against any other, Delta = 2C in L1; ``"zero-out"``: C.

    Returns:
        Epsilon, in 0..inf; `math.inf` for scale 0.

    Raises:
        BadSetting: for a value outside its range.

    >>> epsilon_laplace(scale=2.0, clip=1.0, releases=10)
    10.0
    """
    if not 0 <= scale < math.inf:
        raise BadSetting(f"scale must be at least 0 and finite; got {scale!r}")
    change = _whole(releases) * sensitivity(clip, adjacency)
    return change / scale if scale else math.inf


def scale_laplace(*, epsilon: float, clip: float, releases: int = 1, adjacency: Adjacency = "replace-one") -> float:
    """The least scale b with which ``releases`` releases of one row are (epsilon, 0)-DP: the inverse.

    Raises:
        BadSetting: for a value outside its range; epsilon must be positive and finite.

    >>> scale_laplace(epsilon=10.0, clip=1.0, releases=10)
    2.0
    """
    if not 0 < epsilon < math.inf:
        raise BadSetting(f"epsilon must be positive and finite; got {epsilon!r}")
    scale = _whole(releases) * sensitivity(clip, adjacency) / epsilon
    while epsilon_laplace(scale=scale, clip=clip, releases=releases, adjacency=adjacency) > epsilon:
        scale = math.nextafter(scale, math.inf)  # rounding must not spend more than was asked for
    return scale


def candidate_bound_pure(*, candidates: int, epsilon: float) -> float:
    """The largest P(correct) of any attacker who must tell which of N candidates was sent, under a pure epsilon.

        P(correct) <= e^epsilon / (e^epsilon + N - 1)

    For whatever was sent, the likeliest candidate's density is at most e^epsilon times each other's, so it has at most
    that share of their sum. Met by N-ary randomised response. It needs ``replace-one``, and the epsilon of all
    releases together. The candidates are drawn uniformly.

    Args:
        candidates: N, at least 2.
        epsilon: at least 0; infinite gives 1.

    Raises:
        BadSetting: for a value outside its range.

    >>> round(candidate_bound_pure(candidates=64, epsilon=4.0), 3)
    0.464
    """
    if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 2:
        raise BadSetting(f"candidates must be a whole number of at least 2; got {candidates!r}")
    if not epsilon >= 0:
        raise BadSetting(f"epsilon must be at least 0; got {epsilon!r}")
    return 1 / (1 + (candidates - 1) * math.exp(-epsilon))


def accuracy_bound_pure(*, classes: int, epsilon: float) -> float:
    """The largest accuracy of any model that sees a row only through messages with a pure epsilon.

        accuracy <= e^epsilon / (e^epsilon + K - 1)

    Bayes accuracy is (1/K) sum_m max_k P(m | k) over the messages m. P(m | k) is a mean over the rows of class k, so
    P(m | j) >= e^-epsilon max_k P(m | k) for every class j, and summing over j and m gives
    K >= (1 + (K - 1) e^-epsilon) sum_m max_k P(m | k). Met where the class is told and K-ary randomised response
    answers with it. Nothing else is assumed: neither mechanism, nor model, nor number of rows or words.

    Args:
        classes: K, at least 2, equally likely.
        epsilon: of all of a row's messages together, ``replace-one``; at least 0; infinite gives 1.

    Raises:
        BadSetting: for a value outside its range.

    >>> round(accuracy_bound_pure(classes=10, epsilon=4.0), 3)
    0.858
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise BadSetting(f"classes must be a whole number of at least 2; got {classes!r}")
    return candidate_bound_pure(candidates=classes, epsilon=epsilon)


def _whole(releases: int) -> int:
    if isinstance(releases, bool) or not isinstance(releases, int) or releases < 1:
        raise BadSetting(f"releases must be a whole number of at least 1; got {releases!r}")
    return releases
