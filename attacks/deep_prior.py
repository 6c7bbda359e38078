# SPDX-License-Identifier: Apache-2.0
"""Inputs as untrained skip networks paint them, their weights moved until the head agrees with what was sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.heads import spread
from splitguard.building.likelihood import JointLikelihood
from splitguard.building.priors import total_variation
from splitguard.building.simulate import unaware
from splitguard.building.skipnet import make_skip_nets
from splitguard.metrics import ssim

#: Up to this share of the steps, the input's noise is this share of ``jitter``; afterwards there is none.
SCHEDULE = ((0.5, 1.0), (0.75, 0.2), (0.875, 0.1))
#: Over the last share of the steps the loss gained less than this share of it: at rest.
LAST, GAIN = 0.2, 0.01
#: Auxiliary images that play victims where there are two ways to go.
PRETENDED = 4


@ATTACKS.add("deep-prior")
@dataclass(kw_only=True)
class DeepPrior(Attack):
    """Moves the weights of one untrained network G a victim, all victims at once.

        min_G  L(G(u)),    L(x) = ( sum_t ||r(f_t(x), z_t)||^2 / v ) / P + tv TV2(x) / TV2(aux)

    with u fixed noise, z_t what was sent, f_t the head that made it, r the defense's residual, v the variance of its
    noise plus ``slack`` times the activation's own, and P the number of input coordinates. The prior is the shape of G:
    a convolutional network with skips makes images before it makes noise (Ulyanov et al.). So a victim's image is kept
    as it was when its misfit first fell to what the defense's noise alone explains, which is measured on auxiliary
    images sent through the same heads; without noise, the image of the least loss.

    An attacker that is not adaptive takes the last release alone and knows of no defense. Against a defense that
    changes what is sent, an adaptive one first recovers 4 auxiliary images both ways, and goes on with the better.

    Args:
        steps: of Adam at most; fewer where every victim has reached what noise explains. Each way that is tried on
            auxiliary images takes as many more.
        lr: of Adam.
        width: channels of the outermost of the network's levels; each further one has twice as many.
        levels: at most; fewer for small images (three at 28x28 pixels).
        skip: channels of the branches between the way down and the way up.
        jitter: noise added to u in each step, in units of u's own spread, for the first half of the steps; then a
            fifth of it to 3/4, a tenth to 7/8, and none.
        tv: weight of squared total variation, in units of its mean over auxiliary images.
        slack: the relative variance that a noiseless match may leave; it weighs misfit against ``tv``.
        releases: heads a victim is matched through, at most.
        aux: auxiliary rows, at most, behind variances, total variation and the stopping rule.
        batch: victims at once; it bounds memory.

    Source: Ulyanov, Vedaldi, Lempitsky, Deep image prior, CVPR 2018; as an attack on smashed data ("LM") in Singh et
    al., SIMBA, 2022, and Lei et al., DRAG, ICML 2025. Differences: all victims in one grouped convolution; per-channel
    normalisation over an image's own pixels; the joint likelihood of all releases; stopping where noise begins; 400
    steps and levels of 8 channels and more, where there 20,000 and four of 16 to 128 for larger images; no patch prior,
    and no image is picked by its similarity to the truth.
    """

    steps: int = 400
    lr: float = 1e-2
    width: int = 8
    levels: int = 4
    skip: int = 4
    jitter: float = 0.1
    tv: float = 0.05
    slack: float = 0.01
    releases: int = 4
    aux: int = 256
    batch: int = 16
    _plain: tuple[View, JointLikelihood] | None = field(default=None, init=False, repr=False, compare=False)

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.HEAD | Sees.AUX, (Party.SERVER,))
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Ulyanov, Vedaldi, Lempitsky, Deep image prior, CVPR 2018"
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"steps": 40, "width": 8, "levels": 2, "releases": 1})

    def __post_init__(self) -> None:
        for name in ("steps", "width", "levels", "skip", "releases", "batch"):
            if getattr(self, name) < 1:
                raise BadSetting(f"deep-prior: {name} must be at least 1; got {getattr(self, name)!r}")
        for name in ("lr", "slack"):
            if not getattr(self, name) > 0:
                raise BadSetting(f"deep-prior: {name} must be positive; got {getattr(self, name)!r}")
        for name in ("jitter", "tv"):
            if not getattr(self, name) >= 0:
                raise BadSetting(f"deep-prior: {name} must be at least 0; got {getattr(self, name)!r}")
        if self.aux < 8:
            raise BadSetting(f"deep-prior: aux must be at least 8; got {self.aux!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """(N, *in) in [0, 1] for all victims."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        problem, known = JointLikelihood.of(view, releases=self.releases), spread(view.aux.inputs, self.aux)
        problem, spent = self._better(problem, view, known, generator)
        enough = self._explained_by_noise(problem, known, generator)
        images, steps, rested = [], 0, True
        for chosen in torch.split(torch.arange(problem.victims), self.batch):
            found, taken, rest = self._fit(problem.of_victims(chosen), enough[chosen], known, generator)
            images.append(found)
            steps, rested = max(steps, taken), rested and rest
        return Guess(
            ids=view.ids,
            images=torch.cat(images),
            budget=Budget(steps=steps + spent, aux=len(known), seconds=time.perf_counter() - began),
            converged=rested,
            settings={"adaptive": view.adaptive and self._plain is None},
        )

    def objective(self, view: View, images: Tensor) -> Tensor:
        """(N,): L at ``images`` (N, *in), as the last run chose it."""
        problem, known = JointLikelihood.of(view, releases=self.releases), spread(view.aux.inputs, self.aux)
        if self._plain is not None and self._plain[0] is view:
            problem = self._plain[1]
        parts = torch.split(torch.arange(problem.victims), self.batch)
        with torch.no_grad():
            terms = [self._terms(problem.of_victims(c), known)(images[c]) for c in parts]
        return torch.cat([misfit + rough for misfit, rough in terms])

    def _better(
        self, problem: JointLikelihood, view: View, known: Tensor, generator: torch.Generator
    ) -> tuple[JointLikelihood, int]:
        """What was sent, as an attacker sees it with or without the defense, and the steps that the choice took."""
        self._plain, static = None, unaware(view)
        if static is None:
            return problem, 0
        plain = JointLikelihood.of(static, releases=1)
        truth, reached, spent = spread(known, min(PRETENDED, problem.victims)), [], 0
        for way in (problem, plain):
            sent = way.pretend(truth, generator, by=view)
            enough = self._explained_by_noise(sent, known, generator)
            found, steps, _ = self._fit(sent, enough, known, generator)
            reached.append(float(ssim(found, truth).mean()))
            spent += steps
        if reached[1] > reached[0]:
            problem, self._plain = plain, (view, plain)
        return problem, spent

    def _terms(self, sent: JointLikelihood, known: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """The function from inputs (N, *in) to the two terms of L, misfit (N,) and prior (N,)."""
        misfit, usual = sent.misfit(self.slack), total_variation(known).mean()
        return lambda x: (misfit(x) / x[0].numel(), self.tv * total_variation(x) / usual)

    def _explained_by_noise(self, sent: JointLikelihood, known: Tensor, generator: torch.Generator) -> Tensor:
        """(N,): the misfit at the truth of auxiliary images sent as each victim was; exactly 0 without noise."""
        truth = known[torch.arange(sent.victims) % len(known)]
        with torch.no_grad():
            misfit, _ = self._terms(sent.pretend(truth, generator), known)(truth)
        return misfit

    def _fit(
        self, sent: JointLikelihood, enough: Tensor, known: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, int, bool]:
        """Images, steps taken, and whether all had come to rest, for the victims in ``sent``."""
        nets, noise = make_skip_nets(
            sent.victims,
            tuple(known.shape[1:]),
            width=self.width,
            levels=self.levels,
            skip=self.skip,
            generator=generator,
        )
        nets, noise = nets.to(known), noise.to(known)
        terms, spreads = self._terms(sent, known), self.jitter * float(noise.std())
        optimizer = torch.optim.Adam(nets.parameters(), lr=self.lr)
        best, images = torch.full_like(enough, torch.inf), known.new_zeros(sent.victims, *known.shape[1:])
        done, path = torch.zeros_like(enough, dtype=torch.bool), []
        for step in range(self.steps):
            size = spreads * next((share for until, share in SCHEDULE if step < until * self.steps), 0.0)
            made = nets(noise + size * torch.randn(noise.shape, generator=generator).to(noise) if size else noise)
            wrong, rough = terms(made)
            losses = wrong + rough
            with torch.no_grad():
                better = (losses < best) & ~done
                best = torch.where(better, losses, best)
                images = torch.where(better.view(-1, 1, 1, 1), made, images)
                done |= wrong <= enough
            path.append(float(best.mean()))
            if bool(done.all()):
                break
            optimizer.zero_grad()
            torch.autograd.backward(losses.sum())
            optimizer.step()
        before = path[int(len(path) * (1 - LAST)) - 1]
        return images, len(path), bool(done.all()) or before - path[-1] <= GAIN * before
