# SPDX-License-Identifier: Apache-2.0
"""Decoders from smashed data to inputs, built from the two shapes alone."""

from __future__ import annotations

import math
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
    """Improves on a first guess: smashed data (N, *cut) and a guess (N, C, H, W) to images (N, C, H, W).

    A spatial cut goes through a convolution, residual blocks at its own resolution, then doublings up to the input's
    size, each a convolution and a bilinear resize; any other cut first through a linear layer to a quarter of that
    size. The guess joins there, further convolutions look at both, and what they make is added to the guess: untrained,
    the decoder hands the guess back. Smashed data are standardised inside. The output is not clipped to the inputs'
    range.

    Args:
        cut_shape: (C', H', W'), or any other shape, which is flattened.
        input_shape: (C, H, W).
        width: channels.
        blocks: residual blocks at the cut's resolution.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, cut_shape: tuple[int, ...], input_shape: tuple[int, ...], *, width: int, blocks: int) -> None:
        super().__init__()
        channels, *size = input_shape
        self.spatial = len(cut_shape) == 3
        self.first = (width, *(cut_shape[1:] if self.spatial else (math.ceil(side / 4) for side in size)))
        self.enter: nn.Module = (
            nn.Conv2d(cut_shape[0], width, 3, padding=1)
            if self.spatial
            else nn.Linear(math.prod(cut_shape), math.prod(self.first))
        )
        self.blocks = nn.Sequential(*[_Residual(width) for _ in range(blocks)])
        self.sizes = _doublings(self.first[1:], tuple(size))
        self.rise = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.sizes)
        self.join = nn.Conv2d(width + channels, width, 3, padding=1)
        self.look = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]  # a bias was asked for
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("std", torch.ones(1))

    def standardise(self, smashed: Tensor) -> None:
        """Takes mean and spread of the smashed data from a sample: one a channel of a spatial cut, else one a unit."""
        over = (0, 2, 3) if self.spatial else (0,)
        correction = min(1, math.prod(smashed.shape[d] for d in over) - 1)  # a single value has no spread
        self.mean = smashed.mean(over, keepdim=True)
        spread = smashed.std(over, correction=correction, keepdim=True)
        self.std = spread.clamp(min=1e-3 * float(smashed.std(correction=correction)) + 1e-12)

    def forward(self, smashed: Tensor, guess: Tensor) -> Tensor:
        """(N, C, H, W)."""
        x = (smashed - self.mean) / self.std
        x = self.enter(x if self.spatial else x.flatten(1)).view(len(x), *self.first)
        x = self.blocks(x)
        for size, conv in zip(self.sizes, self.rise, strict=True):
            x = interpolate(conv(x.relu()), size=size, mode="bilinear", align_corners=False)
        x = self.join(torch.cat([x.relu(), guess], 1)).relu()
        out: Tensor = guess + self.leave(self.look(x).relu())
        return out


def _doublings(start: tuple[int, ...], end: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Sizes from ``start``, which is left out, to ``end``, each side at most twice the one before."""
    steps = [start]
    while steps[-1] != end:
        steps.append(tuple(min(2 * side, last) for side, last in zip(steps[-1], end, strict=True)))
    return [after for _, after in pairwise(steps)]


def make_decoder(
    cut_shape: tuple[int, ...], input_shape: tuple[int, ...], *, width: int, blocks: int, generator: torch.Generator
) -> Decoder:
    """A decoder whose weights are drawn from ``generator``.

    Raises:
        BadSetting: if the inputs are not images.
    """
    if len(input_shape) != 3:
        raise BadSetting(f"decoders make images (C, H, W); this task's inputs have shape {input_shape}")
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with drawing(derive(seed, "decoder")):
        return Decoder(cut_shape, input_shape, width=width, blocks=blocks)
