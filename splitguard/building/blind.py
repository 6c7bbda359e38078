# SPDX-License-Identifier: Apache-2.0
"""A first picture of the inputs from smashed data alone, and what fixes the brightness and contrast of pictures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from splitguard.errors import BadSetting

__all__ = ["first_images", "margin", "stretched"]

#: Smashed data with shorter sides has no map worth the name; grids of noise are that coarse, too.
LEAST, COARSE = 4, 4
#: Directions with less than this share of the largest variance are left out: dead channels have no smoothness.
DEAD = 1e-4


def first_images(smashed: Tensor, input_shape: tuple[int, ...], *, share: float, generator: torch.Generator) -> Tensor:
    """(N, C, H, W) in [0, 1]: the smoothest mixture of the channels, at the inputs' size, as grey images.

        a = argmin  E |grad a^T z|^2 / Var(a^T z)

    A head's first layers are filters, each of which keeps a copy of the image with some frequencies weakened; the
    mixture that varies least from place to place for its variance undoes most of that. Its sign is open: these are
    pictures or their negatives. Where smashed data has no places, nothing is known, and the images are smooth noise
    from ``generator``.

    Args:
        smashed: (N, *cut).
        input_shape: (C, H, W).
        share: as in `stretched`.
        generator: of the noise.

    Raises:
        BadSetting: if the inputs are not images.

    Source: the mixture is the first min/max autocorrelation factor of Switzer and Green, 1984.
    """
    if len(input_shape) != 3:
        raise BadSetting(f"a first picture is of images (C, H, W); this task's inputs have shape {input_shape}")
    if smashed.ndim == 4 and min(smashed.shape[2:]) >= LEAST:
        maps = _smoothest(smashed)
    else:
        maps = torch.rand(len(smashed), 1, COARSE, COARSE, generator=generator).to(smashed)
    images = stretched(interpolate(maps, size=input_shape[1:], mode="bilinear", align_corners=False), share)
    return images.expand(-1, input_shape[0], -1, -1).clone()


def stretched(images: Tensor, share: float) -> Tensor:
    """All images by one linear map, so that a share of the pixels lies at 0 and as many at 1; clipped.

    Whoever guesses images and the head together can trade the images' contrast for the head's weights, and their
    brightness for its biases. That images fill their range is what decides. A constant becomes 0.

    Args:
        images: (N, ...).
        share: in [0, 0.5), of all pixels of all images together.
    """
    pixels = images.flatten().sort().values
    outer = min(int(share * len(pixels)), (len(pixels) - 1) // 2)
    low, high = pixels[outer], pixels[-1 - outer]
    return ((images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)).clamp(0, 1)


def margin(images: Tensor) -> float:
    """The mean brightness of the outer sixth of each side, over all images (N, C, H, W).

    Of pictures and their negatives it tells more than the mean over all pixels does: what is pictured is often as dark
    as bright, but what lies behind it is mostly dark.
    """
    height, width = images.shape[-2:]
    outer = torch.ones(height, width, dtype=torch.bool)
    down, across = max(height // 6, 1), max(width // 6, 1)
    outer[down : height - down, across : width - across] = False
    return float(images[..., outer].mean())


def _smoothest(smashed: Tensor) -> Tensor:
    """(N, 1, H', W'): the mixture of channels (N, C', H', W') with the least squared gradient for its variance."""
    apart = (smashed - smashed.mean((0, 2, 3), keepdim=True)).double()
    variance = torch.einsum("nchw,ndhw->cd", apart, apart)
    values, vectors = torch.linalg.eigh(variance)
    if not float(values[-1]) > 0:  # constant maps hold no picture
        return torch.zeros_like(smashed[:, :1])
    kept = values > DEAD * values[-1]
    white = vectors[:, kept] / values[kept].sqrt()
    across, down = apart.diff(dim=3), apart.diff(dim=2)
    rough = torch.einsum("nchw,ndhw->cd", across, across) + torch.einsum("nchw,ndhw->cd", down, down)
    _, turned = torch.linalg.eigh(white.T @ rough @ white)
    return torch.einsum("nchw,c->nhw", apart, white @ turned[:, 0])[:, None].to(smashed)
