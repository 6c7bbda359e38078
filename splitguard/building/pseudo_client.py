# SPDX-License-Identifier: Apache-2.0
"""Networks that stand in for a client whose architecture is unknown, sized from the shapes that cross the cuts."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from splitguard.seeding import derive, drawing

__all__ = ["PseudoClient", "make_client", "make_tail"]


#: Before a cut that is no image, resolution is halved until no side is longer.
LEAST = 7


class PseudoClient(nn.Module):
    """Inputs (N, *in) in [0, 1] to smashed data (N, *cut).

    Images go through two 3x3 convolutions with ReLU at each resolution, halved by means between them until the cut's
    resolution is reached, then through one more convolution to the cut's channels; before a cut that is no image, until
    no side exceeds 7, then through a linear layer. Inputs that are no images go through one hidden layer of 8
    ``width`` units. There is no normalisation, so rows do not mix, and no activation at the end.

    Args:
        input_shape: (C, H, W), or any other shape, which is flattened.
        cut_shape: likewise.
        width: channels at the input's resolution; twice that after the first halving.
    """

    def __init__(self, input_shape: tuple[int, ...], cut_shape: tuple[int, ...], *, width: int) -> None:
        super().__init__()
        self.cut_shape = cut_shape
        self.sizes: list[tuple[int, ...]] = []
        self.steps = nn.ModuleList()
        units = math.prod(input_shape)
        if len(input_shape) == 3:
            end = cut_shape[1:] if len(cut_shape) == 3 else tuple(min(side, LEAST) for side in input_shape[1:])
            self.sizes = _halvings(input_shape[1:], end)
            channels = [input_shape[0], width, *[2 * width] * (len(self.sizes) - 1)]
            self.steps.extend(_pair(before, after) for before, after in pairwise(channels))
            units = channels[-1] * math.prod(end)
        self.leave: nn.Module
        if len(input_shape) == len(cut_shape) == 3:
            self.leave = nn.Conv2d(channels[-1], cut_shape[0], 3, padding=1)
        elif len(input_shape) == 3:
            self.leave = nn.Sequential(nn.Flatten(), nn.Linear(units, math.prod(cut_shape)))
        else:
            hidden = 8 * width
            self.leave = nn.Sequential(
                nn.Flatten(), nn.Linear(units, hidden), nn.ReLU(), nn.Linear(hidden, math.prod(cut_shape))
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, *cut)."""
        x = 2 * inputs - 1
        for size, step in zip(self.sizes, self.steps, strict=True):
            x = step(_resized(x, size))
        out: Tensor = self.leave(x)
        return out.view(len(out), *self.cut_shape)


def make_client(
    input_shape: tuple[int, ...], cut_shape: tuple[int, ...], *, width: int, generator: torch.Generator
) -> PseudoClient:
    """A pseudo-client whose weights are drawn from ``generator``."""
    with drawing(derive(_drawn(generator), "pseudo-client")):
        return PseudoClient(input_shape, cut_shape, width=width)


def make_tail(
    features_shape: tuple[int, ...], classes: int, *, width: int, generator: torch.Generator
) -> nn.Sequential:
    """Features (N, *cut2) to logits (N, K) by one hidden layer of ``width`` units, drawn from ``generator``."""
    with drawing(derive(_drawn(generator), "pseudo-tail")):
        units = math.prod(features_shape)
        return nn.Sequential(nn.Flatten(), nn.Linear(units, width), nn.ReLU(), nn.Linear(width, classes))


def _drawn(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (1,), generator=generator, device=generator.device))


def _pair(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU()
    )


def _halvings(start: tuple[int, ...], end: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Sizes from ``start`` to ``end``, both included, each side at least half the one before."""
    sizes = [start]
    while sizes[-1] != end:
        sizes.append(tuple(max(side // 2, last) for side, last in zip(sizes[-1], end, strict=True)))
    return sizes


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Means over patches where a side shrinks; a cut larger than the input is interpolated."""
    if tuple(x.shape[2:]) == size:
        return x
    if all(new <= old for new, old in zip(size, x.shape[2:], strict=True)):
        return adaptive_avg_pool2d(x, (size[0], size[1]))
    return interpolate(x, size=size, mode="bilinear", align_corners=False)
