# SPDX-License-Identifier: Apache-2.0
"""Noise on the smashed data without a clip: the literature's baseline, which guarantees nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from splitguard.api import DEFENSES, BadSetting, Context, Defense, Phase
from splitguard.building.noisy_release import PHASES, Protected, checked_phases, is_protected
from splitguard.errors import one_of

__all__ = ["Noise"]

Law = Literal["gaussian", "laplace"]


@DEFENSES.add("noise")
@dataclass(kw_only=True)
class Noise(Defense):
    """Sends ``z + n`` in place of ``z``, every coordinate of ``n`` drawn afresh at every sending.

    ``n ~ N(0, sigma^2)``, or Laplace of the same standard deviation, ``b = sigma / sqrt(2)``.

    There is never an epsilon, at no sigma: without a clip two inputs may be sent any distance apart, so the sensitivity
    is infinite, and a trained head may grow its activation until the noise does not matter. `gaussian` and `laplace`
    are the versions that can be accounted for. An attacker who gets T releases by one head is left with
    ``sigma / sqrt(T)``. At ``sigma: 0`` it is an identity, to the bit.

    Args:
        sigma: standard deviation of the noise, finite, 0 or more, in units of the smashed data.
        law: ``gaussian`` or ``laplace``.
        phases: where noise is added: ``training``, ``query`` (evaluation belongs to it), or both.

    Raises:
        BadSetting: for a setting outside its range.

    Source: He, Zhang, Lee, Attacking and protecting data privacy in edge-cloud collaborative inference systems, IEEE
    Internet of Things Journal 2020 (both laws, at inference: ``phases: query``); Titcombe et al., Practical defences
    against model inversion attacks for split neural networks, 2021 (Gaussian, in training too). Code in use prints an
    epsilon beside such noise, from a sensitivity that nothing enforces; this does not.
    """

    sigma: float = 0.5
    law: Law = "gaussian"
    phases: tuple[Protected, ...] = PHASES

    paper: ClassVar[str] = "He et al., Attacking and protecting data privacy in edge-cloud inference, IoT Journal 2020"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "smashed data"
    null: ClassVar[Mapping[str, Any] | None] = {"sigma": 0.0}
    breakers = ("white-box-inversion", "inverse-network", "sdar")

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise BadSetting(f"noise: sigma must be a finite number, 0 or more; got {self.sigma!r}")
        one_of("noise", "law", self.law, get_args(Law))
        self.phases = checked_phases(self.name, self.phases)

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut1): ``smashed`` and fresh noise, in the phases that are protected."""
        return self.released_like(smashed, generator) if is_protected(ctx.phase, self.phases) else smashed

    def during(self, phase: Phase) -> Defense:
        """The baseline in a phase in which no noise is added."""
        return self if is_protected(phase, self.phases) else Defense()

    def noise_std(self) -> float:
        """Sigma, in units of the smashed data, for either law."""
        return self.sigma

    @property
    def noise_law(self) -> str:
        """As set."""
        return self.law

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """``smashed`` and fresh noise from ``generator``, drawn on its device."""
        if self.sigma == 0:
            return smashed
        fresh = torch.empty(2, *smashed.shape, device=generator.device, dtype=smashed.dtype)
        if self.law == "gaussian":
            unit = fresh[0].normal_(generator=generator)
        else:
            one, two = fresh.exponential_(generator=generator)
            unit = (one - two) / math.sqrt(2)  # a difference of exponentials is Laplace(1), of variance 2
        return smashed + self.sigma * unit.to(smashed.device)
