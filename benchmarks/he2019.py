# SPDX-License-Identifier: Apache-2.0
"""The three attacks of He, Zhang, Lee (ACSAC 2019) as their code has them, to be run beside ours.

Images are optimised and decoded in the network's normalised pixels, ``(x - mean) / std``. Their code inverts one image
at a time; here the losses of all images are added, and as Adam moves each pixel by its own gradient alone, it is the
same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from splitguard.building.priors import total_variation

__all__ = ["Pixels", "decoded", "inverted", "shadow"]


@dataclass(frozen=True)
class Pixels:
    """How a network normalises its images (N, C, H, W) in [0, 1]."""

    mean: Sequence[float]
    std: Sequence[float]

    def normalised(self, images: Tensor) -> Tensor:
        """``(x - mean) / std``."""
        mean, std = self._of(images)
        return (images - mean) / std

    def images(self, pixels: Tensor) -> Tensor:
        """The inverse, without a bound."""
        mean, std = self._of(pixels)
        return pixels * std + mean

    def _of(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (like.new_tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return mean, std


def inverted(
    head: Callable[[Tensor], Tensor],
    sent: Tensor,
    shape: Sequence[int],
    pixels: Pixels,
    *,
    steps: int,
    tv: float,
    lr: float = 1e-2,
) -> Tensor:
    """(N, *shape) in [0, 1]: rMLE, from zero, with squared total variation as a sum over pixels."""
    x = torch.zeros(len(sent), *shape, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=lr, eps=1e-3, amsgrad=True)
    for _ in range(steps):
        apart = (head(pixels.images(x)) - sent).square().flatten(1).mean(1).sum()
        loss = apart + tv * total_variation(x).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return pixels.images(x.detach()).clamp(0, 1)


def decoded(
    decoder: nn.Module,
    pairs: tuple[Tensor, Tensor],
    sent: Tensor,
    pixels: Pixels,
    *,
    epochs: int,
    generator: torch.Generator,
) -> Tensor:
    """(N, C, H, W) in [0, 1]: the black-box attack, a decoder trained on (smashed data, image) pairs of 32 a step."""
    answers, wanted = pairs[0], pixels.normalised(pairs[1])
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-3, eps=1e-3, amsgrad=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.5)
    for _ in range(epochs):
        for batch in torch.randperm(len(answers), generator=generator).split(32):
            loss = nn.functional.mse_loss(decoder(answers[batch]), wanted[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        return pixels.images(decoder(sent)).clamp(0, 1)


def shadow(
    fresh: nn.Module,
    body: nn.Module,
    known: tuple[Tensor, Tensor],
    *,
    epochs: int,
    generator: torch.Generator,
) -> nn.Module:
    """The query-free attack's stand-in: ``fresh`` trained by the task's loss under the server's frozen layers."""
    head, body = fresh.train(), copy.deepcopy(body).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(head.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.5)
    for _ in range(epochs):
        for batch in torch.randperm(len(known[0]), generator=generator).split(32):
            loss = nn.functional.cross_entropy(body(head(known[0][batch])), known[1][batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
    return head.eval().requires_grad_(False)
