# SPDX-License-Identifier: Apache-2.0
"""The first layer of every network here: images in [0, 1] to the range that the network was designed for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["IMAGENET", "Normalise"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Means and standard deviations of ImageNet's channels, red, green, blue, for images in [0, 1]."""


class Normalise(nn.Module):
    """``(x - mean) / std``, channel by channel: (N, C, H, W) in [0, 1] to (N, max(C, len(mean)), H, W).

    A greyscale image under three means becomes three channels, the grey repeated and each normalised by its own. The
    two buffers are constants of the architecture, so they are not in the state dict.

    Args:
        mean: one number a channel, or a single one for all.
        std: as many.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means, stds = (torch.tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in (mean, std))
        self.register_buffer("scale", (1 / stds).float(), persistent=False)
        self.register_buffer("shift", (-means / stds).float(), persistent=False)

    @classmethod
    def imagenet(cls, channels: int) -> Normalise:
        """ImageNet's statistics for 3 channels; their means over the channels for any other number."""
        if channels == 3:
            return cls(*IMAGENET)
        mean, std = IMAGENET
        return cls([sum(mean) / 3], [sum(std) / 3])

    def forward(self, x: Tensor) -> Tensor:
        """Of (N, C, H, W)."""
        return torch.addcmul(self.shift, x, self.scale)

    def extra_repr(self) -> str:
        """The formula, for printing."""
        return f"x * {self.scale.flatten().tolist()} + {self.shift.flatten().tolist()}"
