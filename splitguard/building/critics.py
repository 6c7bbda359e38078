# SPDX-License-Identifier: Apache-2.0
"""Critics, which tell two sources of tensors apart, and the losses they are trained with."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, leaky_relu

from splitguard.errors import BadSetting
from splitguard.seeding import derive, drawing

__all__ = ["Critic", "gradient_penalty", "looks_like", "make_critic", "told_apart"]

#: Strided convolutions bring a map down to this side; the residual blocks work there.
SIDE = 4
#: They are at least so wide, or as wide as the blocks.
LEAST = 16
#: Slope of the leaky ReLUs, and numbers a label is embedded in.
SLOPE, EMBEDDED = 0.2, 50


class _Block(nn.Module):
    """x + f(relu(f(relu(x)))), f a convolution or a linear layer that keeps the shape."""

    def __init__(self, width: int, *, spatial: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1) if spatial else nn.Linear(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1) if spatial else nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(leaky_relu(self.first(leaky_relu(x, SLOPE)), SLOPE))
        return x + inner


class Critic(nn.Module):
    """One number a sample, larger where it looks more like the first of two sources: (N, *shape) to (N,).

    Maps (C, H, W), be they images or smashed data, go through strided convolutions down to 4 pixels a side, each twice
    as wide as the one before, residual blocks, and one more strided convolution; any other shape is flattened and goes
    through linear layers four times as wide. A conditional critic is told the label of each sample too: as one more
    map, or as 50 more numbers, both learned. No layer mixes the rows of a batch, so that a penalty on the gradient of
    each sample means what it says.

    Args:
        shape: of one sample.
        width: channels of the residual blocks.
        blocks: how many of them.
        dropout: rate before the last layer, in [0, 1).
        classes: K of the labels it is told; 0 makes it unconditional.
    """

    def __init__(
        self, shape: tuple[int, ...], *, width: int, blocks: int, dropout: float = 0.0, classes: int = 0
    ) -> None:
        super().__init__()
        self.spatial = len(shape) == 3
        self.classes = classes
        self.label: nn.Module | None = None
        if classes:
            area = math.prod(shape[1:])
            told = nn.Embedding(classes, EMBEDDED)
            self.label = nn.Sequential(told, nn.Linear(EMBEDDED, area)) if self.spatial else told
        if self.spatial:
            layers, size = self._maps(shape, width, blocks)
        else:
            width, size = 4 * width, 4 * width
            layers = [nn.Linear(math.prod(shape) + EMBEDDED * bool(classes), width)]
            layers += [_Block(width, spatial=False) for _ in range(blocks)]
        self.body = nn.Sequential(*layers, nn.LeakyReLU(SLOPE))
        self.leave = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(size, 1))

    def _maps(self, shape: tuple[int, ...], width: int, blocks: int) -> tuple[list[nn.Module], int]:
        """The layers of a critic of maps, and how many numbers leave them."""
        channels, *sides = shape
        channels += bool(self.classes)
        falls = [sides]
        while min(falls[-1]) > SIDE:
            falls.append([math.ceil(side / 2) for side in falls[-1]])
        sides, layers = falls[-1], list[nn.Module]()
        for left in range(max(len(falls) - 2, 0), -1, -1):
            wide = max(width // 2**left, min(width, LEAST))
            layers += [nn.LeakyReLU(SLOPE)] * bool(layers)
            layers += [nn.Conv2d(channels, wide, 3, stride=2 if len(falls) > 1 else 1, padding=1)]
            channels = wide
        layers += [_Block(width, spatial=True) for _ in range(blocks)]
        layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(width, width, 3, stride=2, padding=1)]
        return layers, width * math.prod(math.ceil(side / 2) for side in sides)

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N,); an unconditional critic ignores ``labels``."""
        x = samples if self.spatial else samples.flatten(1)
        if self.label is not None:
            assert labels is not None, "a conditional critic needs the labels"
            told = self.label(labels)
            x = torch.cat([x, told.view(-1, 1, *x.shape[2:]) if self.spatial else told], 1)
        out: Tensor = self.leave(self.body(x))
        return out.squeeze(1)


def make_critic(
    shape: tuple[int, ...],
    *,
    width: int,
    blocks: int,
    generator: torch.Generator,
    dropout: float = 0.0,
    classes: int = 0,
) -> Critic:
    """A critic whose weights are drawn from ``generator``.

    Raises:
        BadSetting: if ``width`` is below 1, ``blocks`` negative, or ``dropout`` outside [0, 1).
    """
    if width < 1 or blocks < 0 or not 0 <= dropout < 1:
        raise BadSetting(
            "a critic takes width >= 1, blocks >= 0 and 0 <= dropout < 1; "
            f"got width={width}, blocks={blocks}, dropout={dropout}"
        )
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with drawing(derive(seed, "critic")):
        return Critic(shape, width=width, blocks=blocks, dropout=dropout, classes=classes)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    one: Tensor,
    other: Tensor,
    generator: torch.Generator,
    *,
    slope: float = 1.0,
) -> Tensor:
    """How far the critic's slope is from the wanted one between two batches: a scalar, differentiable in the critic.

        mean_n ( ||grad_x critic(x_n)||_2 - slope )^2,    x_n = u_n one_n + (1 - u_n) other_n,    u_n uniform in [0, 1]

    The norm is over all coordinates of a sample: of maps, over channels as well as places. A slope of 1 keeps pushing
    at full strength even where the two sources are alike; a slope of 0 leaves a push in proportion to what is amiss.

    Args:
        critic: (N, *shape) to (N,).
        one: (N, *shape).
        other: (N, *shape).
        generator: of the u.
        slope: 1, or 0.

    Source: Gulrajani et al., Improved training of Wasserstein GANs, NeurIPS 2017; for slope 0, Thanh-Tung, Tran,
    Venkatesh, Improving generalization and stability of generative adversarial networks, ICLR 2019.
    """
    share = torch.rand(len(one), *[1] * (one.ndim - 1), generator=generator).to(one)
    between = (share * one.detach() + (1 - share) * other.detach()).requires_grad_()
    [found] = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    # The square root of 0 has no gradient; a critic that is flat somewhere must not turn into NaN.
    norms = (found.flatten(1).square().sum(1) + torch.finfo(found.dtype).tiny).sqrt()
    return (norms - slope).square().mean()


def looks_like(logits: Tensor, first: bool) -> Tensor:
    """Mean cross-entropy, in nats, of logits (N,) if all samples come from the first source, or all from the second."""
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(first)))


def told_apart(first: Tensor, second: Tensor) -> Tensor:
    """The loss of a critic with logits (N,) for the first source and (M,) for the second; 2 log 2 is blind."""
    return looks_like(first, True) + looks_like(second, False)
