# SPDX-License-Identifier: Apache-2.0
"""First and second moments of smashed data, and how far those of another set are from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d

__all__ = ["Moments"]


@dataclass(frozen=True)
class Moments:
    """What an attacker's own smashed data is to agree with.

    Covariances over a distance are what a head's filters make of the spectrum of images, so that they tell more of
    their shape than those at one place.

    Attributes:
        mean: (*cut), of each coordinate.
        covariance: (C L^2, C) with L = 2 reach + 1, over rows and places: of the channels at each place up to ``reach``
            away, a channel after the other, with those at a place. Of the units where smashed data has no places.
        reach: places in each direction, as many as the smaller side allows; 0 is one place alone.
    """

    mean: Tensor
    covariance: Tensor
    reach: int

    @classmethod
    def of(cls, smashed: Tensor, reach: int = 0) -> Moments:
        """Those of (N, *cut)."""
        reach = min(reach, (min(smashed.shape[2:]) - 1) // 2) if smashed.ndim == 4 else 0
        if reach:
            return cls(smashed.mean(0), _over_distance(smashed, reach), reach)
        units = smashed.flatten(2).transpose(1, 2).flatten(0, 1) if smashed.ndim > 2 else smashed
        apart = units - units.mean(0)
        return cls(smashed.mean(0), apart.T @ apart / len(units), reach)

    @property
    def variances(self) -> Tensor:
        """(C,), those of the channels."""
        places = (2 * self.reach + 1) ** 2
        return self.covariance[places // 2 :: places].diagonal()

    def gap(self, made: Tensor) -> Tensor:
        """How far those of ``made`` (M, *cut) are from these, a scalar, 0 where they agree.

            mean_d (m_d - m'_d)^2 / mean_c v'_c  +  ||C - C'||_F^2 / ||C'||_F^2

        with m the mean, C the covariance, v the variances of the channels, and a prime for these. Where these are
        without spread, as a single row's are at a flat cut, it is the first term alone, over the mean square.
        """
        own, spread = Moments.of(made, self.reach), self.variances.mean()
        apart = (own.mean - self.mean).square().mean()
        if not float(spread) > 0:
            return apart / (self.mean.square().mean() + torch.finfo(self.mean.dtype).tiny)
        return apart / spread + (own.covariance - self.covariance).square().sum() / self.covariance.square().sum()


def _over_distance(smashed: Tensor, reach: int) -> Tensor:
    """(C L^2, C): channels of (N, C, H, W) about each place that is ``reach`` from the border, with those at it."""
    apart = smashed - smashed.mean((0, 2, 3), keepdim=True)
    inner = apart[:, :, reach:-reach, reach:-reach]
    inner = inner - inner.mean((0, 2, 3), keepdim=True)  # which takes the means about it away as well
    sums = conv2d(apart.transpose(0, 1), inner.transpose(0, 1))  # (C, C, L, L): images are summed over as channels are
    return sums.permute(0, 2, 3, 1).flatten(0, 2) / inner[:, 0].numel()
