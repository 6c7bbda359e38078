# SPDX-License-Identifier: Apache-2.0
"""Only the largest activations of each row are sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitguard.api import DEFENSES, BadSetting, Context, Defense

__all__ = ["TopK"]


@DEFENSES.add("top-k")
@dataclass(kw_only=True)
class TopK(Defense):
    """Sends each row's ``k = ceil(keep d)`` coordinates of largest magnitude as they are, and 0 for the other d - k.

    The choice is made row by row, so a row's release does not depend on its batch; among equal magnitudes it is
    arbitrary but always the same. Gradients flow through what is sent. Nothing is drawn and nothing is guaranteed: what
    is sent is sent exactly, and at every sending the same.

    An attacker who knows of it matches what arrived, and of the rest only that it is smaller (`residual`). At
    ``keep: 1`` the defense is an identity, to the bit. Costs count the zeros as sent.

    Args:
        keep: share of a row's coordinates that is sent, in (0, 1].

    Raises:
        BadSetting: for a share outside (0, 1].

    Source: the ``topkprune`` baseline of Li et al., ResSFL, CVPR 2022 (arXiv 2205.04007), at pruning rates 0.5, 0.6 and
    0.7, here ``keep`` 0.5, 0.4 and 0.3. Their threshold is taken over the whole batch at once, so that rows with small
    activations are sent less than others, and tell of the batch.
    """

    keep: float = 0.4

    paper: ClassVar[str] = "Li et al., ResSFL, CVPR 2022"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "smashed data"
    null: ClassVar[Mapping[str, Any] | None] = {"keep": 1.0}
    breakers = ("white-box-inversion", "inverse-network")

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise BadSetting(f"top-k: keep is a share of a row's coordinates, in (0, 1]; got {self.keep!r}")

    def _count(self, width: int) -> int:
        """K of a row of ``width`` coordinates; a share that is whole up to rounding is not rounded up."""
        return min(max(math.ceil(self.keep * width - 1e-9), 1), width)

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut1): each row's largest coordinates."""
        return self.mean_release(smashed)

    def mean_release(self, smashed: Tensor) -> Tensor:
        """Each row's largest coordinates; nothing is random."""
        flat = smashed.flatten(1)
        count = self._count(flat.shape[1])
        if count == flat.shape[1]:
            return smashed
        largest = flat.detach().abs().topk(count, dim=1).indices
        kept = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, largest, True)
        return torch.where(kept, flat, 0).view_as(smashed)

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """Each row's largest coordinates; nothing is drawn."""
        return self.mean_release(smashed)

    def residual(self, made: Tensor, sent: Tensor) -> Tensor:
        """``made - sent`` where something arrived; elsewhere by how much ``made`` exceeds the smallest that arrived.

        A row of which fewer than k coordinates arrived had no others, so there the rest must be 0.
        """
        flat = sent.flatten(1)
        count = self._count(flat.shape[1])
        if count == flat.shape[1]:
            return made - sent
        size = flat.abs()
        arrived = size > 0
        smallest = torch.where(arrived, size, math.inf).amin(1, keepdim=True)
        most = torch.where(arrived.sum(1, keepdim=True) < count, 0, smallest)
        rows = made.flatten(1)
        excess = rows - torch.minimum(torch.maximum(rows, -most), most)
        return torch.where(arrived, rows - flat, excess).view_as(made)
