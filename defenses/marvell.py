# SPDX-License-Identifier: Apache-2.0
"""Marvell: the noise on returned gradients that best hides which of two classes a row belongs to, at a given power."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from splitguard.api import DEFENSES, BadSetting, Context, Defense, Deployment, NotSupported, Spec
from splitguard.building.label_side import finite_norms, need_returned_gradient

__all__ = ["Classes", "Marvell", "Noise", "detection_error", "optimal_noise", "sum_kl"]

GOLDEN, ROUNDS = (math.sqrt(5) - 1) / 2, 50
#: The spread of a class counts as at least this share of what else there is, since one row alone shows none.
LEAST_SPREAD = 1e-6


class Classes(NamedTuple):
    """The gradients of the two classes as Gaussians ``N(mean_c, spread_c I)``.

    Attributes:
        gap: ||mean_1 - mean_0||^2, positive.
        spread: of class 0 and of class 1: the variance of one coordinate, positive.
        share: of class 1 among the rows, in (0, 1).
        dims: number of coordinates.
    """

    gap: float
    spread: tuple[float, float]
    share: float
    dims: int


class Noise(NamedTuple):
    """Variances of the noise.

    Attributes:
        along: for class 0 and for class 1, in the direction of the difference of the means.
        across: for class 0 and for class 1, in each direction orthogonal to it.
    """

    along: tuple[float, float]
    across: tuple[float, float]

    def power(self, given: Classes) -> float:
        """The expected squared length of the noise of a row drawn at random."""
        weights = (1 - given.share, given.share)
        rows = zip(weights, self.along, self.across, strict=True)
        return sum(w * (one + (given.dims - 1) * many) for w, one, many in rows)


def sum_kl(given: Classes, noise: Noise) -> float:
    """``KL(P1 || P0) + KL(P0 || P1)`` in nats, of the two classes' gradients after the noise.

    With a_c, b_c the variances along and across, spread included, g the gap and d the dimensions:

        1/2 (a1/a0 + a0/a1 - 2 + (d - 1)(b1/b0 + b0/b1 - 2) + g (1/a1 + 1/a0))
    """
    a0, a1, b0, b1 = (s + n for pair in noise for s, n in zip(given.spread, pair, strict=True))
    return _along(a0, a1, given.gap) + (given.dims - 1) * (b1 - b0) ** 2 / (2 * b0 * b1)


def detection_error(divergence: float) -> float:
    """``max(0, 1/2 - sqrt(sumKL) / 4)``: no test of one gradient errs less, the two kinds of error averaged.

    By Pinsker's inequality, total variation is at most half the root of the sum of both divergences.
    """
    return max(0.0, 0.5 - math.sqrt(divergence) / 4)


def optimal_noise(given: Classes, power: float) -> Noise:
    """The noise of at most this expected squared length with the least `sum_kl`.

    In the logarithms of the four variances the problem is a geometric program, hence convex. Across, only the class of
    smaller spread gets noise, at most up to the other's; what power that leaves goes along. Both amounts are found by
    golden-section search, to about 1e-9 of their range. Source: Li et al., ICLR 2022, theorem 1, who alternate.
    """
    tight = 0 if given.spread[0] < given.spread[1] else 1
    low, high = given.spread[tight], given.spread[1 - tight]
    cost = (given.dims - 1) * (given.share if tight else 1 - given.share)
    if cost > 0:
        high = min(high, low + power / cost)

    def noise(log_across: float) -> Noise:
        extra = min(max(math.exp(log_across) - low, 0.0), high - low) if high > low else 0.0
        return Noise(_best_along(given, max(power - cost * extra, 0.0)), (extra, 0.0) if tight == 0 else (0.0, extra))

    return noise(_least(lambda x: sum_kl(given, noise(x)), math.log(low), math.log(high)))


def _along(a0: float, a1: float, gap: float) -> float:
    return (a1 - a0) ** 2 / (2 * a0 * a1) + gap * (1 / a1 + 1 / a0) / 2


def _best_along(given: Classes, budget: float) -> tuple[float, float]:
    """Noise variances along the difference of the means; a0 in closed form for each a1, or all that is left."""
    (u0, u1), share, gap = given.spread, given.share, given.gap

    def other(a1: float) -> float:
        left = max(budget - share * (a1 - u1), 0.0) / (1 - share)
        return min(max(math.sqrt(a1 * a1 + gap * a1), u0), u0 + left)

    top = math.log(u1 + budget / share)
    a1 = math.exp(_least(lambda x: _along(other(math.exp(x)), math.exp(x), gap), math.log(u1), top))
    return max(other(a1) - u0, 0.0), max(a1 - u1, 0.0)


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum in [low, high] has it, by golden-section search."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(ROUNDS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2


@DEFENSES.add("marvell")
@dataclass(kw_only=True)
class Marvell(Defense):
    """Adds ``N(0, S_y)`` to the gradient of each row of class y, the S_0 and S_1 that are hardest to tell apart.

        min  KL(P1 || P0) + KL(P0 || P1)    over S_0, S_1 with   p tr S_1 + (1 - p) tr S_0 <= P = power ||dg||^2

    where P_c is ``N(mean_c, spread_c I + S_c)``, means and spreads those of the batch, p its share of class 1, and dg
    the difference of the means. The optimum has one variance along dg and another one across (see `optimal_noise`).
    With ``error`` the power grows by half until `detection_error` promises as much. A class without a row in the batch
    is taken as it last was, and before it ever was, as gradients of 0: an unprotected batch of one class would show it
    by length alone.

    A heuristic without any guarantee: the bound holds for one gradient of two such Gaussians. The smashed data are left
    as they are. Two classes only; where labels are sent it refuses.

    Args:
        power: s, 0 or more: expected squared length of the noise, in units of ||dg||^2. At 0 nothing is added, to the
            bit.
        error: least detection error, in [0, .5); 0 leaves the power alone.

    Raises:
        BadSetting: for settings outside their range.
        NotSupported: from `bind`, for more than two classes, or where the labels are sent.
        Diverged: from `on_return`, for a batch with a gradient that is not finite.

    Source: Li et al., Label leakage and protection in two-party split learning, ICLR 2022. In the notebooks of their
    code, on Criteo, the test AUC and the 95th percentile over batches of |AUC - .5| of an attack by length are .781 and
    .451 undefended, .769 and .117 at power 1, .752 and .044 at power 10. Difference: one convex search, where they
    alternate.
    """

    power: float = 4.0
    error: float = 0.0
    _seen: dict[int, tuple[Tensor, float]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _share: float = field(default=0.5, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Li et al., Label leakage and protection in two-party split learning, ICLR 2022"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "gradients"
    null: ClassVar[Mapping[str, Any] | None] = {"power": 0.0}
    breakers: ClassVar[tuple[Spec, ...]] = (
        "gradient-cosine",
        "gradient-norm",
        "gradient-spectral",
        "similarity",
        "similarity-smashed",
        "model-completion",
    )

    def __post_init__(self) -> None:
        for name, value, below in (("power", self.power, math.inf), ("error", self.error, 0.5)):
            if not 0 <= value < below:
                raise BadSetting(f"marvell: {name} must be at least 0 and below {below}; got {value!r}")

    def bind(self, deployment: Deployment) -> None:
        """Refuses a deployment with more than two classes, or one that returns no gradient of labels."""
        if self.power == 0:
            return
        need_returned_gradient(deployment, self.name)
        if deployment.classes != 2:
            raise NotSupported(
                f"marvell solves for two classes, and this task has {deployment.classes}. Use max-norm or "
                "gradient-noise for any number of classes, or label-dp for the labels themselves"
            )

    def on_return(self, grad: Tensor, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut), per sample: ``grad`` with the noise of each row's class."""
        if self.power == 0 or len(grad) == 0:
            return grad
        finite_norms(grad, self.name)
        flat = grad.flatten(1).double()
        self._look(flat.detach(), labels)
        means = [self._seen.get(c, (flat.new_zeros(flat.shape[1]), 0.0))[0].to(flat.device) for c in (0, 1)]
        apart = means[1] - means[0]
        gap = float(apart.square().sum())
        if gap == 0:
            return grad
        noise = self._noise(gap, flat.shape[1])
        drawn = torch.randn(flat.shape, generator=generator, device=generator.device, dtype=flat.dtype).to(flat.device)
        direction = apart / math.sqrt(gap)
        along = (drawn @ direction)[:, None] * direction
        one, many = (flat.new_tensor(pair).sqrt()[labels][:, None] for pair in noise)
        return (flat + one * along + many * (drawn - along)).view_as(grad).to(grad.dtype)

    def _look(self, flat: Tensor, labels: Tensor) -> None:
        """Takes mean and spread of each class that the batch holds, and its share if it holds both."""
        for c in (0, 1):
            own = flat[labels == c]
            if len(own):
                mean = own.mean(0)
                self._seen[c] = (mean, float((own - mean).square().mean()))
        share = float((labels == 1).double().mean())
        self._share = share if 0 < share < 1 else self._share

    def _noise(self, gap: float, dims: int) -> Noise:
        """The optimal noise for what was last seen, with as much power as is asked for."""
        spreads = [self._seen[c][1] if c in self._seen else 0.0 for c in (0, 1)]
        floor = LEAST_SPREAD * (gap / dims + max(spreads))
        given = Classes(gap, (max(spreads[0], floor), max(spreads[1], floor)), self._share, dims)
        power = self.power * gap
        noise = optimal_noise(given, power)
        while detection_error(sum_kl(given, noise)) < self.error:
            power *= 1.5
            noise = optimal_noise(given, power)
        return noise

    def state_dict(self) -> dict[str, Any]:
        """What was last seen of each class."""
        return {"share": self._share, "seen": {c: (mean, spread) for c, (mean, spread) in self._seen.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._share = state["share"]
        self._seen = {int(c): (mean, float(spread)) for c, (mean, spread) in state["seen"].items()}
