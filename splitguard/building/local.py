# SPDX-License-Identifier: Apache-2.0
"""Linear regression from the smashed data about a pixel back to the pixel, the same at every place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, pad, pixel_shuffle, pixel_unshuffle

from splitguard.building.linear import LinearInverse
from splitguard.errors import BadSetting

__all__ = ["LocalInverse", "TwoScaleInverse"]

#: Strengths tried, relative to the mean variance of a predictor: from what float32 resolves.
STRENGTHS = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1)
#: Places to each side that are looked at, unless those are more than `WIDE` numbers: then 1.
REACH, WIDE = 2, 1024
#: Channels that it is fitted to at most: 9 numbers each are predictors, whose number the work grows with the cube of.
MOST = 256
#: Places fitted to, about: far more than there are predictors.
PLACES = 2**16
#: Images whose places are unfolded at once; it bounds memory.
CHUNK = 16


@dataclass(frozen=True)
class LocalInverse:
    """The best linear guess at a block of s x s pixels from the smashed data about it, of 5 x 5 places or 3 x 3.

        x_p = b + B (z_q : q at most r places from p),        s = H / h = W / w

    for inputs (M, C, H, W) and smashed data (M, C', h, w). B is one matrix for all places, as the weights of a
    convolution are: an image gives h w rows to fit it to, where `LinearInverse` has one. A convolution with nothing
    behind it that has at least as many channels as it reads values is inverted exactly. Places beyond the edge count as
    the mean.

    Fitted by ridge regression in float64, to as many images as have `PLACES` places; a tenth of all images is kept
    aside, and chooses the strength.

    Attributes:
        mean_z: (C', 1, 1), the mean of each channel.
        weight: ((2 r + 1)^2 C', C s^2), B.
        bias: (C s^2,), b.
        reach: r: 2, or 1 where a place would have more than 1,024 predictors.
        scale: s.
        strength: the chosen one, of `STRENGTHS`.
    """

    mean_z: Tensor
    weight: Tensor
    bias: Tensor
    reach: int
    scale: int
    strength: float

    @staticmethod
    def fits(cut_shape: tuple[int, ...], input_shape: tuple[int, ...]) -> bool:
        """Whether each place of the cut stands for a block of s x s pixels, and has 256 channels at most."""
        if len(cut_shape) != 3 or len(input_shape) != 3 or cut_shape[0] > MOST:
            return False
        scale = input_shape[1] // cut_shape[1]
        return scale > 0 and input_shape[1:] == tuple(scale * side for side in cut_shape[1:])

    @classmethod
    def fit(cls, smashed: Tensor, inputs: Tensor) -> LocalInverse:
        """Fits smashed data (M, C', h, w) to the inputs (M, C, s h, s w) behind them; M of at least 3.

        Raises:
            BadSetting: for fewer rows, counts that differ, or shapes that are not of this kind.
        """
        if len(smashed) != len(inputs) or len(inputs) < 3:
            raise BadSetting(
                f"a local inverse is fitted to at least 3 pairs; got {len(smashed)} smashed, {len(inputs)} inputs"
            )
        if not cls.fits(tuple(smashed.shape[1:]), tuple(inputs.shape[1:])):
            raise BadSetting(
                f"a local inverse needs images, and smashed data of at most {MOST} channels in which each place stands "
                f"for a square of pixels; got a cut of {tuple(smashed.shape[1:])}, inputs of {tuple(inputs.shape[1:])}"
            )
        scale = inputs.shape[-1] // smashed.shape[-1]
        mean_z = smashed.mean((0, 2, 3))[:, None, None]
        aside = max(len(inputs) // 10, 1)
        enough = aside + math.ceil(PLACES / smashed[0, 0].numel())
        reach = REACH if (2 * REACH + 1) ** 2 * smashed.shape[1] <= WIDE else 1
        products = _products(smashed[aside:enough] - mean_z, inputs[aside:enough], reach, scale)
        sums, wide = products[0], (2 * reach + 1) ** 2 * smashed.shape[1]
        mean_p, mean_x = sums[1 : 1 + wide] / sums[0], sums[1 + wide :] / sums[0]
        gram = products[1 : 1 + wide, 1 : 1 + wide] / sums[0] - torch.outer(mean_p, mean_p)
        cross = products[1 : 1 + wide, 1 + wide :] / sums[0] - torch.outer(mean_p, mean_x)
        values, vectors = torch.linalg.eigh(gram)
        turned, level = vectors.T @ cross, float(gram.diagonal().mean())
        if not level > 0:  # smashed data that are all alike tell nothing: the mean pixel is the best guess
            turned, level = torch.zeros_like(turned), 1.0
        tried = []
        for strength in STRENGTHS:
            weight = vectors @ (turned / (values.clamp(min=0) + strength * level)[:, None])
            bias = mean_x - mean_p @ weight
            tried.append(cls(mean_z, weight.to(inputs), bias.to(inputs), reach, scale, strength))
        return min(tried, key=lambda inverse: float(mse_loss(inverse(smashed[:aside]), inputs[:aside])))

    def __call__(self, smashed: Tensor) -> Tensor:
        """(N, C, H, W): the linear guess for smashed data (N, C', h, w), not clipped to the range of inputs."""
        parts = [
            pixel_shuffle((_about(part, self.reach) @ self.weight + self.bias).permute(0, 3, 1, 2), self.scale)
            for part in (smashed - self.mean_z).split(CHUNK)
        ]
        return torch.cat(parts)


@dataclass(frozen=True)
class TwoScaleInverse:
    """A local inverse, and a `LinearInverse` of all smashed data of a row to what the local one leaves over.

    Attributes:
        local: the first.
        whole: the second.
    """

    local: LocalInverse
    whole: LinearInverse

    @classmethod
    def fit(cls, smashed: Tensor, inputs: Tensor, *, rows: int) -> TwoScaleInverse:
        """As `LocalInverse.fit`; the second is fitted to the first ``rows`` pairs."""
        local = LocalInverse.fit(smashed, inputs)
        some = smashed[:rows]
        return cls(local, LinearInverse.fit(some, inputs[:rows] - local(some)))

    def __call__(self, smashed: Tensor) -> Tensor:
        """(N, C, H, W): the linear guess for smashed data (N, C', h, w), not clipped to the range of inputs."""
        return self.local(smashed) + self.whole(smashed)


def _about(smashed: Tensor, reach: int) -> Tensor:
    """(N, h, w, (2 reach + 1)^2 C'): at each place what lies about it, 0 beyond the edge."""
    side = 2 * reach + 1
    near = pad(smashed, [reach] * 4).unfold(2, side, 1).unfold(3, side, 1)
    return near.permute(0, 2, 3, 1, 4, 5).flatten(3)


def _products(smashed: Tensor, inputs: Tensor, reach: int, scale: int) -> Tensor:
    """Sums over rows and places of what stands in (1, predictors, pixels) times each other, in float64."""
    total: Tensor | None = None
    for z, x in zip(smashed.split(CHUNK), inputs.split(CHUNK), strict=True):
        blocks = pixel_unshuffle(x, scale).permute(0, 2, 3, 1)
        each = (
            torch.cat([torch.ones_like(blocks[..., :1]), _about(z, reach).to(blocks), blocks], -1)
            .flatten(0, 2)
            .double()
        )
        total = each.T @ each if total is None else total + each.T @ each
    assert total is not None  # there are rows
    return total
