# SPDX-License-Identifier: Apache-2.0
"""Inputs and a copy of the head at once, from smashed data and the head's architecture alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, NotSupported, Party, Sees, Threat, View
from splitguard.building.blind import first_images, margin, stretched
from splitguard.building.priors import total_variation
from splitguard.building.shadow import latest

#: Contrast is fixed so often, evenly over this first share of the steps; then the loss alone decides.
STRETCHES, UNTIL = 8, 0.8
#: A coordinate counts with at least this share of the mean square, so that dead units do not dominate.
LEAST = 0.01
#: Over the last share of the steps the loss gained less than this share of it: at rest.
LAST, GAIN = 0.2, 0.01


class _Found(NamedTuple):
    """Images (N, *in), the clone that makes of them what was sent, steps, and whether they had come to rest."""

    images: Tensor
    clone: nn.Module
    steps: int
    rested: bool


@ATTACKS.add("unsplit")
@dataclass(kw_only=True)
class Unsplit(Attack):
    """Moves images x and a clone f of the head, of known architecture, until f makes of x what was sent.

        min_{f, x}  mean_n ||r(f(x_n), z_n) / s||^2 / D + tv TV2(x) / Var(x),     0 <= x <= 1

    with z_n what was sent, r the defense's residual, s the spread of each channel of z (of each unit where z has no
    places) and D its coordinates. No image and no weight is known. The victims share one clone, because they share the
    head, so each further victim says more about it. Nothing in z tells a picture from its negative under negative
    weights, or contrast from the weights' size. Total variation counts in units of the variance of all images, which is
    held fixed within a step; that alone would fade them, so it is assumed that pictures fill their range, and of the
    two signs that with the darker margins is taken. Where that is wrong, the guess is a negative.

    x starts as the smoothest mixture of the channels of z, in both signs, and f as the best of a few clones after a
    short training on it. That is what makes early cuts easy. Behind two convolutions the defaults do not beat a mean
    image (docs/attacks.md), and ten times the steps with ``clone_lr`` 1e-3 do (docs/evidence.md). From a cut without
    places it starts in noise and seldom does. It has no auxiliary rows to try anything on, so an attacker who knows the
    defense always goes by its residual.

    Args:
        steps: of Adam on images and clone together, for each sign.
        warm_up: steps on each clone before, the images standing still.
        clones: tried so, for each sign; the one that explains the first images best goes on.
        lr: step size of the images, falling to 0 along a half cosine, in units of a pixel.
        clone_lr: of the clone, likewise.
        tv: weight of total variation.
        share: of all pixels that may lie at 0, and at 1, when contrast is fixed.
        batch: victims sent through the clone at once; it bounds memory and changes no result but for rounding.

    Source: Erdogan, Kupcu, Cicek, UnSplit, WPES 2022. Differences: one clone for all victims, where there one image at
    a time; both are moved in each step, where there 1000 rounds of 100 steps each in turn; the first images; units of
    z; contrast; no penalty on bright images but the choice of the sign.
    """

    steps: int = 500
    warm_up: int = 100
    clones: int = 2
    lr: float = 0.03
    clone_lr: float = 3e-3
    tv: float = 0.02
    share: float = 0.03
    batch: int = 64

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.ARCHITECTURE, (Party.SERVER,), uses=Sees.NOTHING)
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Erdogan, Kupcu, Cicek, UnSplit, WPES 2022"
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"steps": 80, "warm_up": 40, "clones": 1})

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("warm_up", 0), ("clones", 1), ("tv", 0), ("batch", 1)):
            if getattr(self, name) < least:
                raise BadSetting(f"{self.name}: {name} must be at least {least}; got {getattr(self, name)!r}")
        for name in ("lr", "clone_lr"):
            if not getattr(self, name) > 0:
                raise BadSetting(f"{self.name}: {name} must be positive; got {getattr(self, name)!r}")
        if not 0 <= self.share < 0.5:
            raise BadSetting(f"{self.name}: share must lie in [0, 0.5); got {self.share!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """(N, *in) in [0, 1] for all victims."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        found = self._solve(view, generator)
        return Guess(
            ids=view.ids,
            images=found.images,
            budget=Budget(steps=found.steps, seconds=time.perf_counter() - began),
            converged=found.rested,
        )

    def _solve(self, view: View, generator: torch.Generator) -> _Found:
        """Both signs, one after the other, and of the two the one with the darker margins."""
        sent = latest(view)[0]
        first = first_images(sent, view.input_shape, share=self.share, generator=generator)
        misfit, tried = _misfit(view, sent), []
        for start in (first, 1 - first):
            clone = self._best_clone(view, misfit, start, generator)
            images, rested = self._descend(clone, misfit, start.clone())
            tried.append((margin(images), images, clone, rested))
        _, images, clone, rested = min(tried, key=lambda one: one[0])
        return _Found(images, clone, len(tried) * (self.clones * self.warm_up + self.steps), rested)

    def _descend(self, clone: nn.Module, misfit: _Misfit, images: Tensor) -> tuple[Tensor, bool]:
        """Moves both; the images, and whether they had come to rest."""
        images.requires_grad_(True)
        optimizer = torch.optim.Adam(
            [{"params": [images], "lr": self.lr}, {"params": list(clone.parameters()), "lr": self.clone_lr}]
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        every, path = max(self.steps // STRETCHES, 1), []
        for step in range(1, self.steps + 1):
            optimizer.zero_grad()
            path.append(self._gradients(clone, misfit, images))
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0, 1)
                if step % every == 0 and step <= UNTIL * self.steps:
                    images.copy_(stretched(images, self.share))
        before = path[int(len(path) * (1 - LAST)) - 1]
        return images.detach(), before - path[-1] <= GAIN * before

    def _best_clone(self, view: View, misfit: _Misfit, images: Tensor, generator: torch.Generator) -> nn.Module:
        """The clone that explains the first images best after its training on them."""
        tried = []
        for _ in range(self.clones):
            # Eval mode: the clone's normalisation is a scale and a shift to be found, and its dropout is off.
            clone = view.blank_head(generator).eval().to(images)
            optimizer = torch.optim.Adam(clone.parameters(), lr=self.clone_lr)
            last = float("inf")
            for _ in range(self.warm_up):
                optimizer.zero_grad()
                last = self._gradients(clone, misfit, images)
                optimizer.step()
            tried.append((last, clone))
        return min(tried, key=lambda pair: pair[0])[1]

    def _gradients(self, clone: nn.Module, misfit: _Misfit, images: Tensor) -> float:
        """The loss, whose gradients are left with the parameters; a few victims at a time."""
        total, spread = 0.0, images.detach().var() + torch.finfo(images.dtype).tiny
        for chosen in torch.split(torch.arange(len(images)), self.batch):
            part = images[chosen]
            loss = (misfit(clone(part), chosen) + self.tv * total_variation(part) / spread).sum() / len(images)
            torch.autograd.backward(loss)
            total += float(loss.detach())
        return total


@ATTACKS.add("unsplit-functionality")
@dataclass(kw_only=True)
class UnsplitFunctionality(Unsplit):
    """The clone of `unsplit`, as a stolen head: without a query or an image, it may stand in for the client's.

    How well it does is the accuracy of the server's layers on what it makes of test images. A clone that explains
    negatives, or images of another contrast, explains z as well and is worth nothing there.

    Args:
        steps: of Adam on images and clone together, for each sign.
        warm_up: steps on each clone before, the images standing still.
        clones: tried so, for each sign; the one that explains the first images best goes on.
        lr: step size of the images, falling to 0 along a half cosine, in units of a pixel.
        clone_lr: of the clone, likewise.
        tv: weight of total variation.
        share: of all pixels that may lie at 0, and at 1, when contrast is fixed.
        batch: victims sent through the clone at once; it bounds memory and changes no result but for rounding.

    Raises:
        NotSupported: from `run`, in u-shaped: smashed data tell nothing of the client's last layers.

    Source: as `unsplit`; its clones were measured by Gao and Zhang, PCAT, USENIX Security 2023.
    """

    goal: ClassVar[Goal] = Goal.FUNCTIONALITY
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"steps": 300, "warm_up": 60, "clones": 1})

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``head``: from (N, *in) to smashed data, in eval mode."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        if len(view.cut_shapes) == 2:
            raise NotSupported(
                f"unsplit-functionality: the client's last layers, from the cut {view.cuts[-1]} on, leave no trace in "
                "smashed data, so there is no whole network to steal. Use pcat-functionality, or a mode with one cut"
            )
        found = self._solve(view, generator)
        return Guess(
            ids=view.ids,
            head=found.clone.requires_grad_(False),
            budget=Budget(steps=found.steps, seconds=time.perf_counter() - began),
            converged=found.rested,
        )


_Misfit = Callable[[Tensor, Tensor], Tensor]


def _misfit(view: View, sent: Tensor) -> _Misfit:
    """The function from what a clone makes of some victims (M, *cut), and which they are (M,), to misfits (M,)."""
    over = (0, 2, 3) if sent.ndim == 4 else (0,)
    spread = sent.var(over, keepdim=True, correction=0)
    spread = spread + LEAST * sent.square().mean() + torch.finfo(sent.dtype).tiny

    def function(made: Tensor, chosen: Tensor) -> Tensor:
        apart = view.defense.residual(made, sent[chosen]) if view.adaptive else made - sent[chosen]
        return (apart.square() / spread).flatten(1).mean(1)

    return function
