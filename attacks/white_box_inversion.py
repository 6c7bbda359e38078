# SPDX-License-Identifier: Apache-2.0
"""Inputs by optimising them until the client's own head makes of them what was sent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.heads import spread
from splitguard.building.likelihood import JointLikelihood, laplace
from splitguard.building.linear import LinearInverse
from splitguard.building.optimise import optimise_inputs
from splitguard.building.priors import Spectrum, total_variation
from splitguard.building.simulate import unaware
from splitguard.errors import one_of
from splitguard.metrics import ssim

Loss = Callable[[Tensor], Tensor]
#: Slacks tried in tuning.
GRID = (0.1, 0.01, 0.001)
#: Pseudo-victims, and the share of the steps that tuning may take.
PRETENDED, SHARE = 4, 0.3

Prior = Literal["spectrum", "tv"]


@ATTACKS.add("white-box-inversion")
@dataclass(kw_only=True)
class WhiteBoxInversion(Attack):
    """Matches what was sent, under a prior, for all victims at once and each by itself.

        L(x) = ( sum_t ||m(f_t(x)) - z_t||^2 / v + R(x) ) / P,     0 <= x <= 1

    where z_t is what was sent, f_t the head that made it, m the defense without its noise, v the variance of that noise
    plus ``slack`` times the activation's own variance, R the prior and P the number of input coordinates. With Gaussian
    noise that is the posterior of the input, over all releases at once. It starts from the better of the mean auxiliary
    image and a linear guess, and takes quasi-Newton steps scaled by the covariance of auxiliary images. Single releases
    with Laplace noise are also tried by their own likelihood, see `JointLikelihood`.

    An attacker that is not adaptive takes the last release alone and knows of no defense. Against a defense that
    changes what is sent, tuning tries that too, and the attack goes on with what recovers pseudo-victims better.

    Args:
        steps: evaluations of the loss and its gradient a victim, at most; it stops when all is at rest.
        releases: heads a victim is matched through, at most, spread evenly over time. Further ones pay where there is
            noise, or where the activation is narrower than the input; each costs as much as the first. Releases by one
            head are averaged and count as one.
        slack: the relative variance that a noiseless match may leave; larger trusts the prior more. Tuning replaces it.
            Behind a single convolution 1e-5, untuned, comes closer yet: he2019-mnist in docs/papers.md.
        prior: ``spectrum``, a Gaussian with the covariance of auxiliary images, or ``tv``, squared total variation, in
            units of its mean over auxiliary images.
        tune: chooses ``slack`` among 0.1, 0.01 and 0.001 by the SSIM it reaches on 4 auxiliary pseudo-victims, sent
            through the same heads and a fresh draw of the defense, in one batched run of at most 0.3 ``steps``. So does
            it choose whether to use what is known of the defense, if there is any, and of Laplace noise.
        aux: auxiliary rows, at most, behind the prior, the linear guess and the tuning.
        memory: curvature pairs kept a victim.
        batch: victims optimised at once; it bounds memory.

    Source: He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019. Differences: there one
    image at a time, 5000 Adam steps from grey, total variation with a weight set by hand, one release, no defense.
    """

    steps: int = 200
    releases: int = 8
    slack: float = 0.01
    prior: Prior = "spectrum"
    tune: bool = True
    aux: int = 256
    memory: int = 30
    batch: int = 64
    _tuned: float | None = field(default=None, init=False, repr=False, compare=False)
    _last: tuple[View, JointLikelihood] | None = field(default=None, init=False, repr=False, compare=False)
    _chosen: tuple[View, JointLikelihood] | None = field(default=None, init=False, repr=False, compare=False)

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.HEAD | Sees.AUX, (Party.SERVER,))
    version: ClassVar[int] = 4
    paper: ClassVar[str] = "He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("releases", 1), ("aux", 8), ("memory", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise BadSetting(f"white-box-inversion: {name} must be at least {least}; got {getattr(self, name)!r}")
        one_of("white-box-inversion", "prior", self.prior, get_args(Prior))
        if not self.slack > 0:
            raise BadSetting(f"white-box-inversion: slack must be positive; got {self.slack!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """(N, *in) in [0, 1] for all victims."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        problem, known = self._problem(view)
        pretended, rest = _pseudo_victims(known, len(view.ids))
        spectrum, first = Spectrum.fit(rest), None
        self._tuned, self._chosen, best, spent = None, None, -math.inf, 0
        for way in _ways(view, problem, self.releases) if self.tune and len(pretended) else ():
            start = _Start(way, rest, generator)
            sent = way.pretend(pretended, generator, by=view)
            slack, reached, more = self._best_slack(sent, pretended, spectrum, start)
            spent += more
            if reached > best:
                problem, first, best = way, start, reached
                self._tuned, self._chosen = slack, (view, way)
        first = first or _Start(problem, rest, generator)
        images, steps, rested = [], 0, True
        for chosen in torch.split(torch.arange(problem.victims), self.batch):
            part = problem.of_victims(chosen)
            loss = self._loss(part, spectrum, rest, self._slack)
            found = optimise_inputs(
                loss, first(part, loss), steps=self.steps, scale=spectrum.colour, memory=self.memory
            )
            images.append(found.inputs)
            steps, rested = max(steps, found.steps), rested and found.converged
        return Guess(
            ids=view.ids,
            images=torch.cat(images),
            budget=Budget(steps=steps + spent, aux=len(known), seconds=time.perf_counter() - began),
            converged=rested,
            settings={"slack": self._slack, "adaptive": problem.view.adaptive}
            | ({"exact": True} if problem.exact else {}),
        )

    def objective(self, view: View, images: Tensor) -> Tensor:
        """(N,): L at ``images`` (N, *in), as the last run chose it."""
        problem, known = self._problem(view)
        if self._chosen is not None and self._chosen[0] is view:
            problem = self._chosen[1]
        _, rest = _pseudo_victims(known, len(view.ids))
        spectrum = Spectrum.fit(rest)
        parts = torch.split(torch.arange(problem.victims), self.batch)
        with torch.no_grad():
            losses = [self._loss(problem.of_victims(c), spectrum, rest, self._slack)(images[c]) for c in parts]
        return torch.cat(losses)

    @property
    def _slack(self) -> float:
        return self.slack if self._tuned is None else self._tuned

    def _problem(self, view: View) -> tuple[JointLikelihood, Tensor]:
        """What was sent, put together once for one view, and the auxiliary inputs that the attack uses."""
        if self._last is None or self._last[0] is not view:
            self._last = view, JointLikelihood.of(view, releases=self.releases)
        return self._last[1], spread(view.aux.inputs, self.aux)

    def _loss(self, sent: JointLikelihood, spectrum: Spectrum, rest: Tensor, slack: float | Tensor) -> Loss:
        """L, with one slack, or one a victim."""
        misfit, usual = sent.misfit(slack), 1.0
        if self.prior == "tv":
            usual = float(total_variation(rest).mean())

        def loss(inputs: Tensor) -> Tensor:
            prior = spectrum.penalty(inputs) if self.prior == "spectrum" else total_variation(inputs) / usual
            return misfit(inputs) / inputs[0].numel() + prior

        return loss

    def _best_slack(
        self, sent: JointLikelihood, truth: Tensor, spectrum: Spectrum, first: _Start
    ) -> tuple[float, float, int]:
        """The slack that recovers pseudo-victims best, all of `GRID` tried at once, how well, and the steps it took."""
        every = sent.repeat(len(GRID))
        slacks = torch.tensor(GRID, dtype=truth.dtype).repeat_interleave(len(truth))
        loss = self._loss(every, spectrum, first.known, slacks)
        steps = max(int(SHARE * self.steps), 1)
        found = optimise_inputs(loss, first(every, loss), steps=steps, scale=spectrum.colour, memory=self.memory)
        wanted = truth.repeat(len(GRID), *[1] * (truth.ndim - 1))
        error = (found.inputs - wanted).square().flatten(1).mean(1)
        good = ssim(found.inputs, wanted) if truth.ndim == 4 else -error
        means = good.view(len(GRID), -1).mean(1)
        return GRID[int(means.argmax())], float(means.max()), found.steps


def _ways(view: View, known: JointLikelihood, releases: int) -> list[JointLikelihood]:
    """What was sent as it may be taken: by what is known of the defense, by its noise's law, or as if undefended."""
    single = laplace(view) and bool((known.count == 1).all())  # means of several are nearly Gaussian
    exact = [JointLikelihood.of(view, releases=releases, exact=True)] if single else []
    static = unaware(view)
    return [known, *exact, *([] if static is None else [JointLikelihood.of(static, releases=1)])]


def _pseudo_victims(known: Tensor, victims: int) -> tuple[Tensor, Tensor]:
    """A few auxiliary inputs that play victims, and the others."""
    count = min(PRETENDED, victims, len(known) // 4)
    chosen = torch.zeros(len(known), dtype=torch.bool)
    if count:
        chosen[torch.linspace(0, len(known) - 1, count).round().long()] = True
    return known[chosen], known[~chosen]


class _Start:
    """Where to begin: the linear guess from each victim's last release, or the mean input where that explains more."""

    def __init__(self, sent: JointLikelihood, known: Tensor, generator: torch.Generator) -> None:
        self.known = known
        self.linear = LinearInverse.fit(sent.like_latest(known, generator), known)

    def __call__(self, sent: JointLikelihood, loss: Loss) -> Tensor:
        """(N, *in) for the victims in ``sent``."""
        guess = self.linear(sent.latest()).clamp(0, 1)
        mean = self.known.mean(0).expand_as(guess)
        with torch.no_grad():
            worse = loss(guess) > loss(mean)
        return torch.where(worse.view(-1, *[1] * (guess.ndim - 1)), mean, guess)
