# SPDX-License-Identifier: Apache-2.0
"""An inverse network for a stand-in of the client, trained on the attacker's own images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from splitguard.building.decoders import Decoder, make_decoder
from splitguard.building.learners import rows_of
from splitguard.building.simulate import as_released
from splitguard.engine.view import View
from splitguard.metrics import ssim as similarity

__all__ = ["Inverse", "Sent", "mean_sent", "side_by_side", "train_inverse"]

#: Smashed data that go through the decoder at once.
CHUNK = 256
#: Releases that lie side by side at most: what is asked of a pipeline, and kept of its answers, grows with them.
SIDE_BY_SIDE = 8


@dataclass(frozen=True)
class Sent:
    """What was sent of each victim.

    Attributes:
        smashed: (N, *cut); or (N, T c_1, c_2, ...) for a cut (c_1, c_2, ...), as `side_by_side` makes them.
        times: T, the releases that each one is the mean of, or that lie side by side.
        apart: whether they lie side by side.
    """

    smashed: Tensor
    times: int
    apart: bool = False

    @classmethod
    def of(cls, view: View) -> Sent:
        """The last release of each victim, or the mean of all where one head made them and the attacker is adaptive.

        A trained head moves between two releases by more than noise can be averaged away.
        """
        releases = view.releases
        if not (view.adaptive and releases.one_head):
            return cls(releases.last(view.ids).smashed, 1)
        return cls(*releases.means(view.ids))

    @classmethod
    def stacked(cls, view: View) -> Sent:
        """The releases of each victim `side_by_side` where `of` gives their mean; else as `of`.

        T is the smallest number of releases that any victim has, and `SIDE_BY_SIDE` at most: of more, the last ones.
        """
        found = cls.of(view)
        if found.times == 1:
            return found
        rows, times = view.releases.all_of(view.ids)
        each = rows.smashed.view(len(view.ids), times, *rows.smashed.shape[1:])[:, -SIDE_BY_SIDE:]
        return cls(side_by_side(each), each.shape[1], apart=True)

    def mean(self, smashed: Tensor) -> Tensor:
        """(M, *cut): the mean over releases of smashed data that are laid out as these are."""
        return smashed.unflatten(1, (self.times, -1)).mean(1) if self.apart else smashed


def side_by_side(releases: Tensor) -> Tensor:
    """(N, T c_1, c_2, ...) for T releases (N, T, c_1, c_2, ...): at each coordinate, the smallest of the T comes first.

    Releases by one head are draws of one law, so that which came first tells nothing, and a decoder need not learn to
    pay no heed to it. Where the defense draws for each coordinate by itself, as do masks and rounding, nothing else is
    lost: the sorted values are a sufficient statistic. Where it draws for a row as a whole, what tells which values
    came together is lost.
    """
    return releases.sort(dim=1).values.flatten(1, 2)


@dataclass(frozen=True)
class Inverse:
    """A decoder and the mean image it starts from.

    Attributes:
        decoder: in eval mode.
        mean: (C, H, W).
    """

    decoder: Decoder
    mean: Tensor

    def __call__(self, smashed: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] for smashed data (N, *cut)."""
        with torch.no_grad():
            parts = [self.decoder(part, self.mean.expand(len(part), -1, -1, -1)) for part in smashed.split(CHUNK)]
        return torch.cat(parts).clamp(0, 1)


def mean_sent(
    view: View, client: Callable[[Tensor], Tensor], images: Tensor, times: int, generator: torch.Generator
) -> Tensor:
    """(N, *cut): the mean of ``times`` draws of what ``client`` would have sent of ``images``, without gradients."""
    with torch.no_grad():
        made = client(images)
        total = sum((as_released(view, made, generator) for _ in range(times)), torch.zeros_like(made))
    return total / times


def train_inverse(
    view: View,
    client: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    times: int,
    steps: int,
    width: int,
    batch_size: int,
    generator: torch.Generator,
    blocks: int = 1,
    lr: float = 5e-3,
    ssim: float = 0.1,
) -> Inverse:
    """Trains a decoder D on what ``client`` would have sent of ``images``.

        min_D  mean ||D(q(x)) - x||^2 + ssim (1 - SSIM(D(q(x)), x)),     q(x) a mean of ``times`` draws of the release

    The defense is drawn afresh in every step for an attacker that knows of it. D starts as the mean image.

    Args:
        view: what the attacker knows.
        client: images (N, C, H, W) to smashed data (N, *cut); it is not trained.
        images: (M, C, H, W) in [0, 1], the attacker's own.
        times: releases that D will be shown the mean of.
        steps: optimizer steps.
        width: channels of the decoder.
        batch_size: images a step.
        generator: draws weights, batches and the defense.
        blocks: residual blocks of the decoder at the resolution of the cut.
        lr: Adam's largest step size, reached after a tenth of the steps and falling to 0 along a half cosine.
        ssim: weight of the second term.

    Raises:
        BadSetting: if the inputs are not images.
    """
    decoder = make_decoder(view.cut_shapes[0], view.input_shape, width=width, blocks=blocks, generator=generator)
    decoder.to(images)

    def sent(some: Tensor) -> Tensor:
        return mean_sent(view, client, some, times, generator)

    mean = images.mean(0)
    decoder.standardise(sent(images[rows_of(len(images), min(len(images), CHUNK), generator)]))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.1)
    for _ in range(steps):
        truth = images[rows_of(len(images), min(len(images), batch_size), generator)]
        guess = decoder(sent(truth), mean.expand_as(truth))
        loss = mse_loss(guess, truth)
        if ssim:
            loss = loss + ssim * (1 - similarity(guess.clamp(0, 1), truth).mean().to(loss))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return Inverse(decoder.eval(), mean)
