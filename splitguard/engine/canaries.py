# SPDX-License-Identifier: Apache-2.0
"""A head whose rows' gradients are what they are chosen to be, and the step that a defense takes with them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from splitguard.engine.defense import Context, Defense
from splitguard.engine.wire import Phase
from splitguard.privacy.gradient_game import Step

__all__ = ["CanaryHead", "canary_step"]

#: Layers of the head: so many that a clip of each layer by itself, which lets twice as much through as one of all
#: weights together, is seen by as many trials as the command plays.
LAYERS = 4


class CanaryHead(nn.Module):
    """``w . x``, (N, *shape) to (N, 1): a row's gradient in w is the row itself, times what is returned for it.

    The weights are all alike and of length 1, in four layers that read a part of the row each; a row of fewer values
    has a layer for each.

    Args:
        shape: of a row.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        size = math.prod(shape)
        self.shape = shape
        self.widths = [len(part) for part in torch.arange(size).tensor_split(min(LAYERS, size))]
        self.parts = nn.ModuleList(nn.Linear(width, 1, bias=False) for width in self.widths)
        for weight in self.parameters():
            nn.init.constant_(weight, size**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the layers."""
        told = [layer(part) for layer, part in zip(self.parts, x.flatten(1).split(self.widths, 1), strict=True)]
        return torch.stack(told).sum(0)

    def weights(self) -> Tensor:
        """(*shape): w."""
        return torch.cat([weight.detach().flatten() for weight in self.parameters()]).view(self.shape)


def canary_step(defense: Defense, shape: tuple[int, ...]) -> Step:
    """The mechanism of `splitguard.privacy.gradient_game.play_gradients` that a bound defense makes of a head's step.

    A step is one of a session: the defense notes the batch (`Defense.probe`), each row goes through a `CanaryHead`,
    what comes back is the gradient of the batch's mean loss, and the optimizer that the defense brings steps, around
    plain SGD at a learning rate of 1. Head and optimizer are fresh at step 0.

    Args:
        defense: bound already.
        shape: of a row's gradient.
    """
    kept: list[tuple[CanaryHead, torch.optim.Optimizer]] = []

    def step(gradients: Tensor, ids: Tensor, number: int, generator: torch.Generator) -> Tensor:
        if number == 0 or not kept:
            kept[:] = [_begin(defense, shape)]
        [(head, optimizer)] = kept
        before, n = head.weights(), len(gradients)
        defense.probe(torch.zeros_like(ids), Context(ids, 0, number, number, Phase.TRAINING), generator)
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            head(gradients).backward(torch.full((n, 1), 1 / n))
        optimizer.step()
        return n * (before - head.weights())

    return step


def _begin(defense: Defense, shape: tuple[int, ...]) -> tuple[CanaryHead, torch.optim.Optimizer]:
    """A new head, with the optimizer that the defense brings for it, or the session's where it brings none."""
    head = CanaryHead(shape).train()

    def plain(weights: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(weights, lr=1.0)  # type: ignore[arg-type]

    return head, defense.optimizer(head, plain) or plain(list(head.parameters()))
