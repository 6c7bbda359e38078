# SPDX-License-Identifier: Apache-2.0
"""The two linear halves of an autoencoder whose code has the shape of a cut."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from splitguard.errors import BadSetting
from splitguard.seeding import derive, drawing

__all__ = ["Inverse", "Pilot", "make_pilot"]

#: A cut that is no map is reached from a map of about this side.
SIDE = 4


class _Plan:
    """Sizes and widths of the maps between an image and a code of some shape."""

    def __init__(self, input_shape: tuple[int, ...], cut_shape: tuple[int, ...], width: int) -> None:
        self.input_shape, self.cut_shape = input_shape, cut_shape
        self.spatial = len(cut_shape) == 3
        #: (H, W) of the image, and after each halving.
        self.sizes = [tuple(input_shape[1:])]
        end = cut_shape[1:] if self.spatial else (SIDE, SIDE)
        while (half := tuple(math.ceil(side / 2) for side in self.sizes[-1])) != self.sizes[-1]:
            if any(a < b for a, b in zip(half, end, strict=True)):
                break
            self.sizes.append(half)
        #: Channels of the image, and of each map; there is one map at least.
        self.widths = [input_shape[0], *(width * 2**k for k in range(max(len(self.sizes) - 1, 1)))]
        self.stride = 2 if len(self.sizes) > 1 else 1
        #: The last map, flattened.
        self.flat = self.widths[-1] * math.prod(self.sizes[-1])


class Pilot(nn.Module):
    """Images (N, C, H, W) in [-1, 1] to codes (N, *cut), by linear layers alone.

    Convolutions of stride 2, each twice as wide as the one before, bring the image down to the size of the cut, or as
    near above it as halving goes; an average over neighbours does the rest. A cut that is no map is one linear layer
    away from a map of about 4 pixels a side.

    Attributes:
        floor: codes are cut off below this number; 0 makes them like those of a cut after a ReLU.
    """

    floor: Tensor

    def __init__(self, plan: _Plan) -> None:
        super().__init__()
        self.plan = plan
        self.fall = nn.Sequential(
            *[nn.Conv2d(a, b, 3, stride=plan.stride, padding=1) for a, b in pairwise(plan.widths)]
        )
        self.leave: nn.Module = (
            nn.Conv2d(plan.widths[-1], plan.cut_shape[0], 3, padding=1)
            if plan.spatial
            else nn.Linear(plan.flat, math.prod(plan.cut_shape))
        )
        self.register_buffer("floor", torch.tensor(-math.inf))

    def forward(self, images: Tensor) -> Tensor:
        """(N, *cut)."""
        x = self.fall(images)
        x = (
            adaptive_avg_pool2d(x, (self.plan.cut_shape[1], self.plan.cut_shape[2]))
            if self.plan.spatial
            else x.flatten(1)
        )
        return torch.maximum(self.leave(x).view(len(x), *self.plan.cut_shape), self.floor)


class Inverse(nn.Module):
    """Codes (N, *cut) back to images (N, C, H, W) in [-1, 1]: the pilot's layers mirrored, and a tanh at the end."""

    def __init__(self, plan: _Plan) -> None:
        super().__init__()
        self.plan = plan
        self.enter: nn.Module = (
            nn.Conv2d(plan.cut_shape[0], plan.widths[-1], 3, padding=1)
            if plan.spatial
            else nn.Linear(math.prod(plan.cut_shape), plan.flat)
        )
        # A stride of 2 leaves one row out; it is added, and cut off again where the map's side is odd.
        self.rise = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 3, stride=plan.stride, padding=1, output_padding=plan.stride - 1)
            for a, b in reversed([*pairwise(plan.widths)])
        )

    def forward(self, codes: Tensor) -> Tensor:
        """(N, C, H, W)."""
        plan = self.plan
        x: Any = self.enter(codes if plan.spatial else codes.flatten(1))
        x = x.view(len(x), plan.widths[-1], *(plan.cut_shape[1:] if plan.spatial else plan.sizes[-1]))
        if tuple(x.shape[2:]) != plan.sizes[-1]:
            x = interpolate(x, size=plan.sizes[-1], mode="bilinear", align_corners=False)
        sizes = plan.sizes[-2::-1] if plan.stride == 2 else plan.sizes
        for (height, width), layer in zip(sizes, self.rise, strict=True):
            x = layer(x)[..., :height, :width]
        out: Tensor = x.tanh()
        return out


def make_pilot(
    input_shape: tuple[int, ...], cut_shape: tuple[int, ...], *, width: int, generator: torch.Generator
) -> tuple[Pilot, Inverse]:
    """A pilot and its inverse, weights drawn from ``generator``.

    Args:
        input_shape: (C, H, W).
        cut_shape: (C', H', W'), or any other shape.
        width: channels of the first map; each further one has twice as many.
        generator: of the weights.

    Raises:
        BadSetting: if the inputs are no images, or ``width`` is below 1.

    Source: the architecture of Pasquini, Ateniese, Bernaschi, Unleashing the tiger, CCS 2021, for any shapes.
    """
    if len(input_shape) != 3:
        raise BadSetting(f"a pilot encodes images (C, H, W); this task's inputs have shape {input_shape}")
    if width < 1:
        raise BadSetting(f"a pilot's width must be at least 1; got {width}")
    plan = _Plan(input_shape, cut_shape, width)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with drawing(derive(seed, "pilot")):
        return Pilot(plan), Inverse(plan)
