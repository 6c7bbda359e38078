# SPDX-License-Identifier: Apache-2.0
"""Untrained skip networks, one a victim, called side by side: their shape alone prefers images to noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu

from splitguard.errors import BadSetting
from splitguard.seeding import derive, drawing

__all__ = ["SkipNets", "make_skip_nets"]

#: Channels of the noise that each network turns into an image.
CHANNELS = 8
#: The noise is uniform from 0 to this.
SPAN = 0.1
#: Slope of the leaky ReLU.
SLOPE = 0.2
#: No level is made whose sides are shorter: normalisation of few pixels leaves little of them.
LEAST = 3


class _Layer(nn.Module):
    """Convolution, normalisation of each channel of each network over its own pixels, leaky ReLU."""

    def __init__(self, copies: int, enter: int, leave: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            copies * enter, copies * leave, size, stride=stride, padding=size // 2, groups=copies, bias=False
        )
        self.norm = nn.InstanceNorm2d(copies * leave, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(self.norm(self.conv(x)), SLOPE)


class SkipNets(nn.Module):
    """N networks with weights of their own from noise (N, 8, H, W) to images (N, C, H, W) in (0, 1).

    Level by level the noise is halved in size by a strided convolution, then doubled again by bilinear interpolation
    and joined by a narrow branch that skipped the levels below. A sigmoid makes the image. All N run as one grouped
    convolution, and nothing is normalised across networks, so that each is as if it were alone.

    Args:
        copies: N.
        input_shape: (C, H, W).
        widths: channels of each level, the outermost first.
        skip: channels of the branches.
    """

    def __init__(self, copies: int, input_shape: tuple[int, ...], *, widths: tuple[int, ...], skip: int) -> None:
        super().__init__()
        self.copies, channels = copies, input_shape[0]
        enters = (CHANNELS, *widths[:-1])
        # What comes up from below a level is as wide as that level, or, at the bottom, as what went down.
        rises = (*widths[1:], widths[-1])
        pairs = list(zip(enters, widths, rises, strict=True))
        self.skips = nn.ModuleList(_Layer(copies, enter, skip, 1) for enter, _, _ in pairs)
        self.down = nn.ModuleList(
            nn.Sequential(_Layer(copies, enter, width, 3, stride=2), _Layer(copies, width, width, 3))
            for enter, width, _ in pairs
        )
        self.up = nn.ModuleList(
            nn.Sequential(_Layer(copies, skip + rise, width, 3), _Layer(copies, width, width, 1))
            for _, width, rise in pairs
        )
        self.leave = nn.Conv2d(copies * widths[0], copies * channels, 1, groups=copies)

    def forward(self, noise: Tensor) -> Tensor:
        """(N, C, H, W)."""
        x, kept = noise.reshape(1, -1, *noise.shape[-2:]), []
        for skip, down in zip(self.skips, self.down, strict=True):
            kept.append(skip(x))
            x = down(x)
        for branch, up in zip(reversed(kept), reversed(self.up), strict=True):
            x = interpolate(x, size=branch.shape[-2:], mode="bilinear", align_corners=False)
            x = up(self._joined(branch, x))
        out: Tensor = self.leave(x).sigmoid()
        return out.view(self.copies, -1, *noise.shape[-2:])

    def _joined(self, one: Tensor, other: Tensor) -> Tensor:
        """Channels of two branches (1, N A, H, W) and (1, N B, H, W), those of one network side by side."""
        size = one.shape[-2:]
        both = [part.view(self.copies, -1, *size) for part in (one, other)]
        return torch.cat(both, 1).view(1, -1, *size)


def make_skip_nets(
    copies: int, input_shape: tuple[int, ...], *, width: int, levels: int, skip: int, generator: torch.Generator
) -> tuple[SkipNets, Tensor]:
    """Networks, and the noise (N, 8, H, W) that they start from, all drawn from ``generator``.

    Args:
        copies: N.
        input_shape: (C, H, W).
        width: channels of the outermost level; each further one has twice as many.
        levels: at most so many; fewer where images are small.
        skip: channels of the branches.
        generator: of weights and noise.

    Raises:
        BadSetting: if the inputs are not images, or too small for one level.
    """
    if len(input_shape) != 3:
        raise BadSetting(f"skip networks make images (C, H, W); this task's inputs have shape {input_shape}")
    side, possible = min(input_shape[1:]), 0
    while possible < levels and (side := -(-side // 2)) >= LEAST:
        possible += 1
    if possible == 0:
        raise BadSetting(f"skip networks make images of at least 5x5 pixels; this task's inputs are {input_shape}")
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with drawing(derive(seed, "skip networks")):
        nets = SkipNets(copies, input_shape, widths=tuple(width * 2**i for i in range(possible)), skip=skip)
    return nets, SPAN * torch.rand(copies, CHANNELS, *input_shape[1:], generator=generator)
