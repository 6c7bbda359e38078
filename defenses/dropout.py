# SPDX-License-Identifier: Apache-2.0
"""A random part of the smashed data is withheld, another part at every sending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitguard.api import DEFENSES, BadSetting, Context, Defense

__all__ = ["Dropout"]


@DEFENSES.add("dropout")
@dataclass(kw_only=True)
class Dropout(Defense):
    """Sends ``s m z`` in place of ``z``: each coordinate is 0 with probability ``rate``, by itself and each time anew.

    ``m`` is Bernoulli(1 - rate) for every coordinate of every row and every sending, in evaluations and queries as in
    training; ``s = 1 / (1 - rate)`` if ``rescale``, so that the mean is ``z``, else 1. Nothing is guaranteed: what is
    sent is sent exactly, and T releases by one head leave only ``rate^T`` of the coordinates unseen.

    An attacker who knows of it matches only the coordinates that arrived (`residual`). At ``rate: 0`` the defense is an
    identity, to the bit.

    Args:
        rate: the probability with which a coordinate is withheld, in [0, 1).
        rescale: divide what is sent by ``1 - rate``, as `torch.nn.Dropout` does while training.

    Raises:
        BadSetting: for a rate outside [0, 1).

    Source: He, Zhang, Lee, Attacking and protecting data privacy in edge-cloud collaborative inference systems, IEEE
    Internet of Things Journal 2020, where the attacker matches the zeros as well, does not know of the mask, and is
    given one release.
    """

    rate: float = 0.5
    rescale: bool = True

    paper: ClassVar[str] = "He et al., Attacking and protecting data privacy in edge-cloud inference, IoT Journal 2020"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "smashed data"
    null: ClassVar[Mapping[str, Any] | None] = {"rate": 0.0}
    breakers = ("white-box-inversion", "inverse-network", "sdar")

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise BadSetting(f"dropout: rate must lie in [0, 1), and at 1 nothing would be sent; got {self.rate!r}")

    @property
    def _scale(self) -> float:
        return 1 / (1 - self.rate) if self.rescale else 1.0

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut1): ``smashed`` through a fresh mask."""
        return self.released_like(smashed, generator)

    def mean_release(self, smashed: Tensor) -> Tensor:
        """``s (1 - rate) smashed``."""
        return smashed if self.rescale else (1 - self.rate) * smashed

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """``smashed`` through a fresh mask from ``generator``, drawn on its device."""
        if self.rate == 0:
            return smashed
        drawn = torch.rand(smashed.shape, generator=generator, device=generator.device)
        # Not a product: 0 times an infinite activation would be no number.
        return torch.where((drawn >= self.rate).to(smashed.device), self._scale * smashed, 0)

    def residual(self, made: Tensor, sent: Tensor) -> Tensor:
        """``s made - sent`` where something arrived, 0 elsewhere: a zero is withheld, or it is a zero."""
        if self.rate == 0:
            return made - sent
        return torch.where(sent != 0, self._scale * made - sent, 0)
