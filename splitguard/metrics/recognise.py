# SPDX-License-Identifier: Apache-2.0
"""Whether an outside classifier, which is not the network under attack, still knows what a reconstruction shows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from splitguard.errors import BadSetting
from splitguard.metrics.image import check_images
from splitguard.metrics.labels import check_labels
from splitguard.seeding import derive, drawing, generator

__all__ = ["Outsider", "train_outsider"]

#: Optimizer steps, images a step, Adam's largest step size, and channels of the first layer.
STEPS, BATCH, RATE, WIDTH = 250, 32, 3e-3, 16
#: Images with a smaller side below this are not halved by a convolution.
SMALL = 16


class Outsider(nn.Module):
    """A small convolutional network for images (N, C, H, W) in [0, 1] of any size from 4x4 on.

    Two convolutions with ReLU that halve the image, but for small ones, then means over a 4x4 grid and one dense layer:
    a second of training. Images are standardised inside.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, int, int], classes: int, mean: float, std: float) -> None:
        super().__init__()
        stride = 2 if min(shape[1:]) >= SMALL else 1
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], WIDTH, 5, stride=stride, padding=2),
            nn.ReLU(),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=stride, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(2 * WIDTH * 16, classes),
        )
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, images: Tensor) -> Tensor:
        """(N, K) logits."""
        out: Tensor = self.layers((images.float() - self.mean) / self.std)
        return out

    def recognises(self, images: Tensor, labels: Tensor) -> Tensor:
        """(N,) bool: which images (N, C, H, W) it takes for what they should be, ``labels`` (N,)."""
        check_images(images)
        with torch.no_grad():
            named = torch.cat([self(part).argmax(1) for part in images.detach().cpu().split(256)])
        return named == labels.cpu()


def train_outsider(images: Tensor, labels: Tensor, *, classes: int, seed: int = 0) -> Outsider | None:
    """Trains an `Outsider` on auxiliary rows, in seconds.

    It has seen neither the victims nor the network under attack, so that it cannot be fooled by what was optimised
    against that one. Its accuracy on the true images says how far its word goes: report it beside.

    Args:
        images: (M, C, H, W) in [0, 1].
        labels: (M,) in 0..classes-1.
        classes: K.
        seed: draws weights and batches.

    Returns:
        In eval mode; None for fewer than 2 classes among the rows or images under 4x4: it could recognise nothing.

    Raises:
        BadSetting: for lengths that differ, or values outside [0, 1].
    """
    if len(images) != len(labels):
        raise BadSetting(f"an outside classifier needs one label an image; got {len(labels)} for {len(images)} images")
    if len(labels) == 0 or len(labels.unique()) < 2 or min(images.shape[-2:]) < 4:
        return None
    check_images(images)
    check_labels(labels, classes=classes)
    images, labels = images.detach().float().cpu(), labels.cpu()
    with drawing(derive(seed, "outsider")):
        _, channels, height, width = images.shape
        network = Outsider((channels, height, width), classes, float(images.mean()), max(float(images.std()), 1e-3))
    draws = generator(seed, "outsider", "batches")
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS + 1, pct_start=0.1)
    order = torch.empty(0, dtype=torch.int64)
    with torch.enable_grad():
        for _ in range(STEPS):
            if len(order) == 0:
                order = torch.randperm(len(images), generator=draws)
            chosen, order = order[:BATCH], order[BATCH:]
            loss = cross_entropy(network(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)
