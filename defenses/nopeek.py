# SPDX-License-Identifier: Apache-2.0
"""NoPeek: the client also trains its head for a small distance correlation between inputs and smashed data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitguard.api import DEFENSES, BadSetting, Batch, Defense, Deployment, NotSupported, Spec
from splitguard.metrics.dependence import dcor

__all__ = ["NoPeek"]


@DEFENSES.add("nopeek")
@dataclass(kw_only=True)
class NoPeek(Defense):
    """Adds ``weight * dCor(x, z)`` of each client's batch to the client's loss.

    ``dCor = sqrt(dCov^2(x, z) / sqrt(dCov^2(x, x) dCov^2(z, z)))`` over the batch, in [0, 1]; the task loss is the mean
    cross-entropy in nats, so a weight of 1 trades one nat for full dependence. The head becomes another one; what it
    sends goes out as it is, and nothing is guaranteed. The statistic is biased upwards in small batches (see
    `splitguard.metrics.dependence.dcor`), so weights compare at one batch size only.

    Args:
        weight: of the penalty, finite, 0 or more; at 0 nothing is computed and training is plain, to the bit.

    Raises:
        BadSetting: if ``weight`` is negative or not finite.
        NotSupported: from `bind`, for a frozen head, which no penalty trains.

    Source: Vepakomma, Singh, Gupta, Raskar, NoPeek: information leakage reduction to share activations in distributed
    deep learning, ICDM workshops 2020. They minimise ``a1 dCor + a2 CE``; this is ``a2 = 1``. Code in use that writes
    ``a dCor + (1 - a) CE`` corresponds to ``weight = a / (1 - a)`` with the head's learning rate times ``1 - a``. Some
    of it takes squared distances, which see linear dependence only; this does not.
    """

    weight: float = 0.5

    paper: ClassVar[str] = "Vepakomma et al., NoPeek, ICDM workshops 2020"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "training loss"
    breakers: ClassVar[tuple[Spec, ...]] = ("white-box-inversion", "inverse-network", "sdar", "pcat", "fsha")
    null: ClassVar[Mapping[str, Any] | None] = {"weight": 0.0}

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise BadSetting(f"nopeek: weight must be a finite number, 0 or more; got {self.weight}")

    def bind(self, deployment: Deployment) -> None:
        """Refuses a deployment in which the penalty would change nothing."""
        if deployment.head_frozen and self.weight > 0:
            raise NotSupported(
                "nopeek: the head is frozen, so a penalty on its training changes nothing. Use train: {head: trained}, "
                "or a defense of the smashed data itself, such as gaussian"
            )

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        """``weight * dCor`` of ``batch.inputs`` (N, *in) and ``smashed`` (N, *cut1); None for one row or weight 0."""
        if self.weight == 0 or len(smashed) < 2:
            return None
        return self.weight * dcor(batch.inputs.to(smashed), smashed)
