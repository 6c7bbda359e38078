# SPDX-License-Identifier: Apache-2.0
"""Decoders from smashed data to inputs, built from the two shapes alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from splitguard.errors import BadSetting
from splitguard.seeding import derive, drawing

__all__ = ["Decoder", "make_decoder"]


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))): keeps the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return x + self.second(self.first(x.relu()).relu())


class Decoder(nn.Module):
    """Smashed data (N, *cut), standardised inside, to images (N, C, H, W) in [0, 1]; untrained, it answers the mean.

    A spatial cut goes through a convolution, residual blocks at its own resolution, then doublings up to the input's
    size, each a bilinear resize and a convolution; a flat cut first through a linear layer to a quarter of that size.

    Args:
        cut_shape: (C', H', W') or (D,).
        input_shape: (C, H, W).
        width: channels.
        blocks: residual blocks at the cut's resolution.
    """

    mean: Tensor
    std: Tensor
    start_logit: Tensor

    def __init__(self, cut_shape: tuple[int, ...], input_shape: tuple[int, ...], *, width: int, blocks: int) -> None:
        super().__init__()
        channels, height, long = input_shape
        flat = len(cut_shape) != 3
        start = (-(-height // 4), -(-long // 4)) if flat else (cut_shape[1], cut_shape[2])
        features = int(torch.tensor(cut_shape).prod())
        self.width, self.start = width, start
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("std", torch.ones(1))
        self.enter: nn.Module = (
            nn.Linear(features, width * start[0] * start[1]) if flat else nn.Conv2d(cut_shape[0], width, 3, padding=1)
        )
        self.flat = flat
        self.blocks = nn.Sequential(*[_Residual(width) for _ in range(blocks)])
        self.sizes = list(_sizes(start, (height, long)))
        self.rise = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.sizes)
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        self.leave.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("start_logit", torch.zeros(input_shape))

    def begin(self, smashed: Tensor, images: Tensor) -> None:
        """Takes from a sample of pairs where to begin: the mean image, and the scale of the smashed data.

        Mean and spread of the smashed data are one a channel of a spatial cut, one a unit of a flat one.
        """
        self.start_logit = torch.logit(images.mean(0), eps=1e-2)
        over = (0,) if self.flat else (0, 2, 3)
        self.mean = smashed.mean(over, keepdim=True)
        self.std = smashed.std(over, keepdim=True).clamp(min=1e-3 * float(smashed.std()) + 1e-12)

    def forward(self, smashed: Tensor) -> Tensor:
        """(N, C, H, W)."""
        x = (smashed - self.mean) / self.std
        x = self.enter(x.flatten(1) if self.flat else x)
        x = self.blocks(x.view(len(x), self.width, *self.start))
        for size, conv in zip(self.sizes, self.rise, strict=True):
            x = conv(interpolate(x.relu(), size=size, mode="bilinear", align_corners=False))
        return torch.sigmoid(self.start_logit + self.leave(x.relu()))


def _sizes(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """Doublings from ``start`` up to ``end``, the last one exactly ``end``; nothing if they are equal."""
    steps = [start]
    while steps[-1] != end:
        height, width = steps[-1]
        steps.append((min(2 * height, end[0]) if height < end[0] else end[0],
                      min(2 * width, end[1]) if width < end[1] else end[1]))  # fmt: skip
    return [after for _, after in pairwise(steps)]


def make_decoder(
    cut_shape: tuple[int, ...],
    input_shape: tuple[int, ...],
    *,
    width: int,
    blocks: int,
    generator: torch.Generator,
) -> Decoder:
    """A decoder whose weights are drawn from ``generator``.

    Raises:
        BadSetting: if the inputs are not images.
    """
    if len(input_shape) != 3:
        raise BadSetting(f"decoders make images (C, H, W); this task's inputs are {input_shape}")
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with drawing(derive(seed, "decoder")):
        return Decoder(cut_shape, input_shape, width=width, blocks=blocks)
