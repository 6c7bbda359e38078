# SPDX-License-Identifier: Apache-2.0
"""Small data and networks that the engine's tests share."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from splitguard.data.rows import Data, Rows


def rows(count: int, first: int, gen: torch.Generator, *, classes: int = 3, side: int = 8) -> Rows:
    """Blobs: each class brightens its own band of the image, so that there is something to learn."""
    labels = torch.randint(classes, (count,), generator=gen)
    inputs = torch.rand(count, 1, side, side, generator=gen) * 0.5
    for k in range(classes):
        inputs[labels == k, :, k * 2 : k * 2 + 2] += 0.5
    return Rows(inputs, labels, torch.arange(first, first + count))


def data(clients: int = 1, *, count: int = 46, seed: int = 0, sizes: tuple[int, ...] | None = None) -> Data:
    """Train rows dealt to ``clients`` (unequal on purpose unless ``sizes`` says how many), and the other parts."""
    gen = torch.Generator().manual_seed(seed)
    train = rows(count, 0, gen)
    if sizes is None:
        parts = tuple(torch.arange(c, count, clients) for c in range(clients))
    else:
        parts = tuple(torch.arange(count).split(list(sizes)))
    return Data(
        name="toy",
        classes=3,
        train=train,
        test=rows(30, 1000, gen),
        aux=rows(24, 2000, gen),
        query=rows(5, 3000, gen),
        members=torch.tensor([0, 1, 2, 3, 7, 11]),
        clients=parts,
        digest="toy" + str(seed),
    )


def lenet(seed: int = 0, *, dropout: float = 0.3) -> nn.Sequential:
    """A LeNet in small, with dropout in two places and an in-place ReLU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 4, 3, padding=1),
                relu1=nn.ReLU(inplace=True),
                pool1=nn.MaxPool2d(2),
                drop1=nn.Dropout(dropout),
                conv2=nn.Conv2d(4, 6, 3, padding=1),
                relu2=nn.ReLU(inplace=True),
                flatten=nn.Flatten(),
                fc1=nn.Linear(96, 16),
                relu3=nn.ReLU(),
                drop2=nn.Dropout(dropout),
                fc2=nn.Linear(16, 3),
            )
        )


class Block(nn.Module):
    """A residual block with BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Any:
        """relu(x + norm(conv(x)))."""
        return self.relu(x + self.norm(self.conv(x)))


def resnet(seed: int = 0) -> nn.Sequential:
    """A stem, three residual blocks, pooling, dropout, classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                stem=nn.Conv2d(1, 6, 3, padding=1),
                block1=Block(6),
                block2=Block(6),
                block3=Block(6),
                pool=nn.AdaptiveAvgPool2d(2),
                flatten=nn.Flatten(),
                drop=nn.Dropout(0.2),
                fc=nn.Linear(24, 3),
            )
        )
