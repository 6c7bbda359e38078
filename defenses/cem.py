# SPDX-License-Identifier: Apache-2.0
"""Conditional entropy maximisation: the client trains its head to say little about the input through its own noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitguard.api import DEFENSES, BadSetting, Batch, Context, Defense, Deployment, NotSupported, Phase, Spec
from splitguard.api import generator as seeded
from splitguard.building.clusters import k_means

__all__ = ["Cem"]

#: Rows of a class that are kept of an epoch, for its clusters.
ROWS = 256


@DEFENSES.add("cem")
@dataclass(kw_only=True)
class Cem(Defense):
    """Sends ``z + N(0, sigma^2 I)`` and adds ``weight * I`` to the client's loss, I a bound on what noise lets through.

        I = sum_k  n_k / N  *  mean_d  log(1 + v_kd / sigma^2),      v_kd = mean over the rows of k of (z_d - mu_kd)^2

    over the clusters k of a Gaussian mixture with diagonal covariances, in nats per coordinate and twice over: half of
    log(1 + v / sigma^2) is what a Gaussian coordinate of variance v tells through noise of variance sigma^2. The less
    is told, the larger H(x | z), and any reconstruction errs by at least ``exp(2 H(x | z) / d) / (2 pi e)`` per pixel.
    The centres mu come from k-means on each class's rows of the epoch before; in the first epoch a class is one cluster
    around its mean in the batch. Where the client does not hold labels, all rows count as one class.

    Nothing is guaranteed: z is not clipped, the mixture is a model, and so the bound is one. Where several clients take
    part, centres are handed on like the head.

    Args:
        weight: of the penalty, 0 or more; the task loss is the mean cross-entropy in nats. At 0 there is none. Too
            large a weight makes all smashed data of a class one point in the first epochs: .2 does, for a LeNet cut at
            its first convolution and trained on 100 faces.
        sigma: standard deviation of the noise, in units of the smashed data, in every phase; positive unless ``weight``
            is 0.
        clusters: a class, at least 1.

    Raises:
        BadSetting: for settings outside their range or at odds.
        NotSupported: from `bind`, for a frozen head, which no penalty trains.

    Source: Xia, Yu, Yang, et al., Theoretical insights in model inversion robustness and conditional entropy
    maximization for collaborative inference systems, CVPR 2025 (arXiv 2503.00383); its code takes 3 clusters, weights
    of 8 and 16, and noise of .01 to .15. Differences: the variance in the penalty is that of the noise which is sent,
    where the code has .001 whatever the noise; a constant 1e-4 in its logarithm and a ReLU around it, which never acts,
    are left out; clusters are found on at most 256 rows a class; it comes without their adversarial training, which is
    the defense `adversarial` and can stand beside this one.
    """

    weight: float = 0.03
    sigma: float = 0.03
    clusters: int = 3
    _centres: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _kept: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _epoch: int = field(default=-1, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Xia et al., Conditional entropy maximization, CVPR 2025"
    per_sample: ClassVar[bool] = True
    noise_law: ClassVar[str] = "gaussian"
    acts: ClassVar[str] = "training loss and smashed data"
    null: ClassVar[Mapping[str, Any] | None] = {"weight": 0.0, "sigma": 0.0}
    breakers: ClassVar[tuple[Spec, ...]] = (
        {"inverse-network": {"width": 64, "blocks": 8, "lr": 0.002}},
        "white-box-inversion",
        "deep-prior",
        "sdar",
    )

    def __post_init__(self) -> None:
        for name in ("weight", "sigma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise BadSetting(f"cem: {name} must be a finite number, 0 or more; got {value!r}")
        if self.weight > 0 and self.sigma == 0:
            raise BadSetting(
                f"cem: with sigma=0 there is no noise that could hide anything, and weight={self.weight} has no "
                "measure; give a positive sigma, or weight=0"
            )
        if self.clusters < 1:
            raise BadSetting(f"cem: clusters must be at least 1; got {self.clusters!r}")

    def bind(self, deployment: Deployment) -> None:
        """Refuses a deployment in which the penalty would change nothing."""
        if deployment.head_frozen and self.weight > 0:
            raise NotSupported(
                "cem: the head is frozen, so a penalty on its training changes nothing. Use train: {head: trained}, or "
                "gaussian for noise alone"
            )

    def adversary_step(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> None:
        """Keeps the rows (N, *cut1) of this epoch, up to `ROWS` a class; draws nothing."""
        if self.weight == 0:
            return
        rows, owner = smashed.flatten(1), _classes(batch, smashed)
        for c in owner.unique().tolist():
            old = self._kept.get(c, rows[:0])
            if len(old) < ROWS:
                self._kept[c] = torch.cat([old, rows[owner == c]])[:ROWS]

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        """``weight * I`` of ``smashed`` (N, *cut1), a scalar of at least 0; None at weight 0."""
        if self.weight == 0:
            return None
        rows, owner = smashed.flatten(1), _classes(batch, smashed)
        told = rows.new_zeros(rows.shape[1])
        for c in owner.unique().tolist():
            own = rows[owner == c]
            centres = self._centres.get(c, own.detach().mean(0, keepdim=True)).to(own)
            nearest = torch.cdist(own.detach(), centres).argmin(1)
            for k in nearest.unique().tolist():
                chosen = own[nearest == k]
                spread = (chosen - centres[k]).square().mean(0)
                told = told + len(chosen) / len(rows) * torch.log1p(spread / self.sigma**2)
        return self.weight * told.mean()

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """``smashed + N(0, sigma^2 I)``, (N, *cut1); the first training batch of an epoch also ends the one before."""
        if ctx.phase is Phase.TRAINING and ctx.epoch != self._epoch:
            if self._epoch >= 0 and self.weight > 0:
                self._cluster(generator)
            self._epoch = ctx.epoch
        return self.released_like(smashed, generator)

    def noise_std(self) -> float:
        """Sigma, in units of the smashed data."""
        return self.sigma

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """``smashed`` and fresh noise from ``generator``, drawn on its device."""
        if self.sigma == 0:
            return smashed
        noise = torch.randn(smashed.shape, generator=generator, device=generator.device, dtype=smashed.dtype)
        return smashed + self.sigma * noise.to(smashed.device)

    def outside(self) -> Defense:
        """Without the clusters of the clients' rows: around the mean of each class of the batch instead."""
        known = copy.copy(self)
        known._centres, known._kept = {}, {}
        return known

    def _cluster(self, generator: torch.Generator) -> None:
        """New centres from the rows kept, which are then dropped."""
        seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        for c, rows in sorted(self._kept.items()):
            exact = rows.double().cpu()
            found = k_means(exact, min(self.clusters, len(exact)), seeded(seed, "cem", c), starts=1)
            self._centres[c] = found.to(rows)
        self._kept.clear()

    def state_dict(self) -> dict[str, Any]:
        """Centres, the rows kept so far, and the epoch."""
        return {"centres": dict(self._centres), "kept": dict(self._kept), "epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._centres, self._kept, self._epoch = dict(state["centres"]), dict(state["kept"]), state["epoch"]


def _classes(batch: Batch, smashed: Tensor) -> Tensor:
    """(N,): the label of each row, or 0 for all where the client holds none."""
    if batch.labels is None:
        return torch.zeros(len(smashed), dtype=torch.int64, device=smashed.device)
    return batch.labels.to(smashed.device)
