# SPDX-License-Identifier: Apache-2.0
"""The numbers of `accounting` a second time, by Opacus' PRV accountant, as a cross-check."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from splitguard.errors import BadSetting, NotSupported
from splitguard.privacy.accounting import OPACUS_WINDOW, Adjacency, epsilon, sensitivity, sigma

__all__ = ["epsilon_prv", "sigma_prv"]


def epsilon_prv(
    *,
    sigma: float | Sequence[float],
    clip: float,
    releases: int = 1,
    delta: float,
    adjacency: Adjacency = "replace-one",
    eps_error: float | None = None,
) -> float:
    """`epsilon` by Opacus' PRVAccountant at sample rate 1: an independent upper bound, by numerical convolution.

    With ``eps_error = min(.01, .01 epsilon)``, the default, exact <= PRV <= exact + 2 eps_error. Up to seconds a call
    for thousands of releases. Source: Gopi, Lee, Wutschitz, NeurIPS 2021.

    Raises:
        BadSetting: for a value outside its range.
        NotSupported: where the exact epsilon is 0 or above 500: there is nothing to compare with.
    """
    exact = epsilon(sigma=sigma, clip=clip, releases=releases, delta=delta, adjacency=adjacency)
    if not 0 < exact <= OPACUS_WINDOW:
        raise NotSupported(
            f"the PRV cross-check works for epsilon in (0, {OPACUS_WINDOW:g}]; this is {exact:g}. Use epsilon()"
        )
    from opacus.accountants import PRVAccountant

    error = min(0.01, 0.01 * exact) if eps_error is None else eps_error
    if not error > 0:
        raise BadSetting(f"eps_error must be positive; got {error!r}")
    change = sensitivity(clip, adjacency)
    accountant = PRVAccountant()
    accountant.history = (
        [(s / change, 1.0, 1) for s in sigma] if isinstance(sigma, Sequence) else [(sigma / change, 1.0, releases)]
    )
    with np.errstate(divide="ignore"), warnings.catch_warnings():  # log(1 - sample_rate); RDP only sizes PRV's grid
        warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
        return float(accountant.get_epsilon(delta, eps_error=error))


def sigma_prv(
    *, epsilon: float, clip: float, releases: int = 1, delta: float, adjacency: Adjacency = "replace-one"
) -> float:
    """The least noise, to one part in 10,000, whose `epsilon_prv` is at most ``epsilon``; about 10 times its cost.

    Raises:
        BadSetting: for a value outside its range.
        NotSupported: as `epsilon_prv`.
    """
    low = sigma(epsilon=epsilon, clip=clip, releases=releases, delta=delta, adjacency=adjacency)
    error = min(0.01, 0.01 * epsilon)

    def enough(scale: float) -> bool:
        bound = epsilon_prv(
            sigma=scale, clip=clip, releases=releases, delta=delta, adjacency=adjacency, eps_error=error
        )
        return bound <= epsilon

    high = sigma(epsilon=epsilon - 2 * error, clip=clip, releases=releases, delta=delta, adjacency=adjacency)
    while not enough(high):
        high *= 1.01
    while high / low > 1.0001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
