# SPDX-License-Identifier: Apache-2.0
"""What natural images are like: total variation, and a Gaussian whose covariance is diagonal in frequency."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from splitguard.errors import BadSetting

__all__ = ["Spectrum", "total_variation"]

#: The variance that rounding to 8 bits leaves in any coordinate: no direction is known better than that.
ROUNDING = 1 / (12 * 255**2)


def total_variation(images: Tensor) -> Tensor:
    """The mean squared difference of neighbouring pixels, down and across.

        TV2(x) = mean (x[i+1, j] - x[i, j])^2 + mean (x[i, j+1] - x[i, j])^2

    Args:
        images: (N, C, H, W).

    Returns:
        (N,), in squared units of a pixel; 0 for a constant image. Differentiable.

    Source: He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019: the squared form of
    their code, not the paper's power of one half. There one number for the batch; here one an image.
    """
    if images.ndim != 4:
        raise BadSetting(f"total variation is of images (N, C, H, W); got shape {tuple(images.shape)}")
    parts = [images.diff(dim=d).square() for d in (-2, -1) if images.shape[d] > 1]
    return sum((p.flatten(1).mean(1) for p in parts), start=images.new_zeros(len(images)))


@dataclass(frozen=True)
class Spectrum:
    """A Gaussian over inputs, ``N(mean, K)``, with K a C x C matrix for each frequency of the cosine transform.

    That is what is left of a covariance when images may be shifted: pixels become frequencies that do not covary, and
    only the channels of one frequency do. Natural images have most of their variance at low frequencies and in
    brightness rather than colour. Total variation is the special case of one variance ``1 / |frequency|^2`` for all
    images and channels.

    Inputs of one or two dimensions are taken as (features, 1, 1), the full covariance, and as (1, A, B).

    Attributes:
        mean: (*in), the mean input.
        covariance: (H, W, C, C) in squared units of the input.
        precision: its inverse.
    """

    mean: Tensor
    covariance: Tensor
    precision: Tensor

    @classmethod
    def fit(cls, inputs: Tensor) -> Spectrum:
        """Estimates mean and covariance.

        Args:
            inputs: (M, *in), M of at least 2.

        Returns:
            The Gaussian; the variance of 8-bit rounding is added in every direction, and with few rows the covariances
            between channels are shrunk by ``M / (M + C)``.

        Raises:
            BadSetting: for fewer than two rows.
        """
        if len(inputs) < 2:
            raise BadSetting(f"a spectrum is estimated from at least 2 rows; got {len(inputs)}")
        mean = inputs.mean(0)
        waves = _transform(_planes(inputs - mean))
        rows, channels = waves.shape[:2]
        covariance = torch.einsum("nchw,ndhw->hwcd", waves, waves) / (rows - 1)
        own = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
        covariance = own + (covariance - own) * (rows / (rows + channels))
        covariance = covariance + ROUNDING * torch.eye(channels).to(covariance)
        return cls(mean, covariance, torch.linalg.inv(covariance))

    def penalty(self, inputs: Tensor) -> Tensor:
        """(N,): ``(x - mean)^T K^-1 (x - mean)`` divided by the number of coordinates; about 1 for rows like these."""
        waves = _transform(_planes(inputs - self.mean))
        whitened = torch.einsum("hwcd,ndhw->nchw", self.precision, waves)
        return (waves * whitened).flatten(1).mean(1)

    def colour(self, directions: Tensor) -> Tensor:
        """(N, *in): ``K d``, which turns a gradient into a step that respects the scale of every frequency."""
        waves = torch.einsum("hwcd,ndhw->nchw", self.covariance, _transform(_planes(directions)))
        return _transform(waves, back=True).view_as(directions)


def _planes(inputs: Tensor) -> Tensor:
    """(N, *in) as (N, C, H, W)."""
    match inputs.ndim:
        case 4:
            return inputs
        case 3:
            return inputs[:, None]
        case 2:
            return inputs[:, :, None, None]
    raise BadSetting(f"inputs have one to three dimensions beside the batch; got shape {tuple(inputs.shape)}")


def _transform(planes: Tensor, *, back: bool = False) -> Tensor:
    """The orthonormal cosine transform of each plane (N, C, H, W), or its inverse."""
    down, across = (_cosines(size).to(planes) for size in planes.shape[-2:])
    return down.T @ planes @ across if back else down @ planes @ across.T


@lru_cache(maxsize=32)
def _cosines(size: int) -> Tensor:
    """(size, size): the orthonormal DCT-II, a wave a row; its inverse is its transpose."""
    wave = torch.arange(size, dtype=torch.float64)
    table = torch.cos(math.pi / size * wave[:, None] * (wave + 0.5)) * math.sqrt(2 / size)
    table[0] /= math.sqrt(2)
    return table
