# SPDX-License-Identifier: Apache-2.0
"""The smashed data is rounded to a few levels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from splitguard.api import DEFENSES, BadSetting, Context, Defense, Deployment, NotSupported
from splitguard.building.rows_alone import aux_smashed

__all__ = ["Quantize"]

#: Bits of a number that is not rounded.
FULL = 32


@DEFENSES.add("quantize")
@dataclass(kw_only=True)
class Quantize(Defense):
    """Sends ``low + step round((z - low) / step)``, each coordinate clamped to [low, high] and rounded by itself.

    ``step = (high - low) / (2^bits - 1)``. Gradients pass straight through the rounding, and not through the clamp:
    what lies outside the range gets none. With ``stochastic`` a coordinate goes up or down at random, so that its mean
    is kept: ``floor(u + U[0, 1))`` in place of ``round(u)``.

    Nothing is guaranteed: an attacker knows ``z`` to half a step. One who knows of the rounding asks no more of a guess
    than to be rounded to what arrived (`residual`); stochastic rounding averages out over releases. At ``bits: 32`` the
    defense is an identity, to the bit. Costs count the levels as float32: the engine does not pack them.

    Args:
        bits: 1 to 16 a coordinate, or 32 for no rounding.
        low: the lowest level, below ``high``; ``auto``: the smallest activation of auxiliary rows under the head before
            training. A trained head may outgrow an automatic range; then it is trained to stay within.
        high: the highest level; ``auto``: the largest such activation.
        stochastic: whether to round at random, with a fresh draw at every sending.

    Raises:
        BadSetting: for settings outside their range; from `bind`, if the automatic range is empty or not finite.

    Source: straight-through gradient: Bengio, Leonard, Courville, 2013 (arXiv 1308.3432); stochastic rounding: Alistarh
    et al., QSGD, NeurIPS 2017. As a defense of smashed data it is folklore. The range is fixed before training, not the
    batch's own, which would tell of other rows.
    """

    bits: int = 2
    low: float | Literal["auto"] = "auto"
    high: float | Literal["auto"] = "auto"
    stochastic: bool = False
    _range: tuple[float, float] | None = field(default=None, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Bengio et al., Estimating or propagating gradients through stochastic neurons, 2013"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "smashed data"
    null: ClassVar[Mapping[str, Any] | None] = {"bits": FULL}
    breakers = ("white-box-inversion", "inverse-network")

    def __post_init__(self) -> None:
        if not (1 <= self.bits <= 16 or self.bits == FULL):
            raise BadSetting(f"quantize: bits must lie in 1..16, or be {FULL} for no rounding; got {self.bits!r}")
        ends = [end for end in (self.low, self.high) if not isinstance(end, str)]
        if not all(map(math.isfinite, ends)) or (len(ends) == 2 and ends[0] >= ends[1]):
            raise BadSetting(f"quantize: low must be a finite number below high; got low={self.low}, high={self.high}")

    def bind(self, deployment: Deployment) -> None:
        """Fixes the range."""
        low, high = self.low, self.high
        if self.bits == FULL:
            return
        if isinstance(low, str) or isinstance(high, str):
            ends = [(float(chunk.min()), float(chunk.max())) for chunk in aux_smashed(deployment)]
            low = min(end[0] for end in ends) if isinstance(low, str) and ends else low
            high = max(end[1] for end in ends) if isinstance(high, str) and ends else high
        if isinstance(low, str) or isinstance(high, str) or not (low < high and math.isfinite(high - low)):
            raise BadSetting(
                f"quantize: the activations of {len(deployment.aux)} auxiliary rows give no range; with them low is "
                f"{low} and high is {high}. Give both as numbers"
            )
        self._range = (low, high)

    def _grid(self) -> tuple[float, float, float]:
        """Low, high, step."""
        if self._range is None:
            raise NotSupported("quantize: the range is set for a deployment; call bind before anything is sent")
        low, high = self._range
        return low, high, (high - low) / (2**self.bits - 1)

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut1): ``smashed``, rounded."""
        return self.released_like(smashed, generator)

    def mean_release(self, smashed: Tensor) -> Tensor:
        """``smashed``, rounded; with stochastic rounding the clamped one, which is its mean."""
        if self.bits == FULL:
            return smashed
        low, high, step = self._grid()
        inside = smashed.clamp(low, high)
        return inside if self.stochastic else _straight(inside, (((inside - low) / step).round() * step + low))

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """``smashed``, rounded; at random with ``generator`` if it is stochastic."""
        if self.bits == FULL or not self.stochastic:
            return self.mean_release(smashed)
        low, high, step = self._grid()
        inside = smashed.clamp(low, high)
        drawn = torch.rand(inside.shape, generator=generator, device=generator.device, dtype=inside.dtype)
        level = ((inside - low) / step + drawn.to(inside.device)).floor().clamp(max=2**self.bits - 1)
        return _straight(inside, level * step + low)

    def overrides(self, hook: str) -> bool:
        """As in `Defense`; stochastic releases are matched by their mean, so that they can be averaged."""
        return super().overrides(hook) and not (hook == "residual" and self.stochastic)

    def residual(self, made: Tensor, sent: Tensor) -> Tensor:
        """How far ``made`` lies outside of what is rounded to ``sent``: 0 within half a step; the last steps are open.

        With stochastic rounding ``mean_release(made) - sent``.
        """
        if self.bits == FULL or self.stochastic:
            return super().residual(made, sent)
        low, high, step = self._grid()
        least = torch.where(sent < low + step / 2, -math.inf, sent - step / 2)
        most = torch.where(sent > high - step / 2, math.inf, sent + step / 2)
        return made - torch.minimum(torch.maximum(made, least), most)

    def state_dict(self) -> dict[str, Any]:
        """The range; empty before `bind`."""
        return {} if self._range is None else {"range": list(self._range)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        if state:
            low, high = state["range"]
            self._range = (low, high)


def _straight(inside: Tensor, rounded: Tensor) -> Tensor:
    """The bits of ``rounded`` with the gradient of ``inside``: what is added is exactly 0."""
    return rounded.detach() + (inside - inside.detach())
