# SPDX-License-Identifier: Apache-2.0
"""Random flips and crops of training images, drawn for each sample on its own from a generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from splitguard.errors import BadSetting, UnknownName, near_miss

__all__ = ["augment"]


def augment(
    inputs: Tensor, how: Mapping[str, Any] | None, gen: torch.Generator, *, keep: Tensor | None = None
) -> Tensor:
    """Each image flipped left to right with probability 1/2, and cut at random from itself padded with zeros.

    The padded crop of Krizhevsky (2009) and He et al. (2016, section 4.2): with ``crop: p`` the image is padded by p
    pixels on every side, and a window of its own size is cut out at an offset uniform on {0..2p}^2. The draws for one
    row depend on ``gen`` and on its place in the batch only, not on the other rows nor on ``keep``.

    Args:
        inputs: (N, C, H, W) in [0, 1]; not changed.
        how: ``{"flip": true, "crop": 4}``, each optional; None, {}, ``flip: false`` and ``crop: 0`` change no bit
            and draw nothing.
        gen: where the draws come from.
        keep: (N,) bool, True for rows that stay as they are, as member victims do; None: no row.

    Returns:
        (N, C, H, W) in [0, 1].

    Raises:
        UnknownName: for a setting that does not exist, with near misses.
        BadSetting: for a value that does not fit, or inputs that are no images.
    """
    settings = {"flip": False, "crop": 0, **(how or {})}
    for key in settings:
        if key not in ("flip", "crop"):
            raise UnknownName(near_miss(key, ("flip", "crop"), what="augmentation"))
    flip, crop = settings["flip"], settings["crop"]
    if not isinstance(flip, bool):
        raise BadSetting(f"augment: flip must be true or false; got {flip!r}")
    if isinstance(crop, bool) or not isinstance(crop, int) or crop < 0:
        raise BadSetting(f"augment: crop must be a whole number of pixels, 0 or more; got {crop!r}")
    if not flip and crop == 0:
        return inputs
    if inputs.ndim != 4:
        raise BadSetting(f"augment: flips and crops need images (N, C, H, W); got {tuple(inputs.shape)}")
    out = inputs
    number, _, height, width = inputs.shape
    if flip:
        heads = (torch.rand(number, generator=gen, device=gen.device) < 0.5).to(inputs.device)
        out = torch.where(heads[:, None, None, None], out.flip(3), out)
    if crop > 0:
        offset = torch.randint(2 * crop + 1, (number, 2), generator=gen, device=gen.device).to(inputs.device)
        rows = offset[:, :1] + torch.arange(height, device=inputs.device)
        columns = offset[:, 1:] + torch.arange(width, device=inputs.device)
        padded = functional.pad(out, (crop,) * 4)
        sample = torch.arange(number, device=inputs.device)[:, None, None]
        # Indices on both sides of the slice: the channels come last, and go back to their place.
        out = padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
    return out if keep is None else torch.where(keep.to(inputs.device)[:, None, None, None], inputs, out)
