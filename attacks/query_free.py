# SPDX-License-Identifier: Apache-2.0
"""Inputs by inverting a shadow of the head, trained below the server's own layers without a single query."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Party, Rows, Sees, Threat, View
from splitguard.building.heads import spread
from splitguard.building.likelihood import JointLikelihood
from splitguard.building.linear import LinearInverse
from splitguard.building.optimise import Optimum, optimise_inputs
from splitguard.building.priors import Spectrum
from splitguard.building.shadow import through_shadow
from splitguard.building.shadow_training import ShadowTraining
from splitguard.building.simulate import RELEASE, unaware
from splitguard.metrics import ssim

#: Slacks tried in tuning: a shadow is wrong by far more than a head that is known.
GRID = (1.0, 0.3, 0.1, 0.03)
#: Auxiliary rows that play victims in tuning, and the share of the inversion's steps that it may take.
PRETENDED, SHARE = 8, 0.5


@ATTACKS.add("query-free")
@dataclass(kw_only=True)
class QueryFree(Attack):
    """Trains a shadow head s below the server's frozen body g, and inverts what was sent through s.

        min_s  CE(g(d(s(x))), y) + moments M(d(s(x)), z) + penalty,        (x, y) auxiliary, d the defense drawn afresh
        min_x  ( sum_t ||r(s(x), z_t)||^2 / v + R(x) ) / P,     0 <= x <= 1

    g was trained with the client's head and understands only such smashed data, so s is drawn towards it. M compares
    means and channel covariances with those of the victims' smashed data z, over rows whose labels are as frequent as
    theirs where the server is told those; ``penalty`` is what the defense adds to a client's loss, and y what it states
    in place of the label. The second line is white-box inversion under the covariance of auxiliary images, R, with the
    variance v of the noise plus ``slack`` times the activation's own, which here has to cover how wrong s is.

    In u-shaped the server lacks the last layers: a linear one of its own takes their place and is trained with s, on
    the true y.

    An attacker that is not adaptive takes d for the identity, adds no penalty and leaves y as it is. Where there is a
    defense, an adaptive one trains such a shadow too, when it tunes, and goes on with the one that recovers more.

    Args:
        train_steps: of Adam on the shadow.
        lr: its largest step size, falling to 0 along a half cosine.
        batch_size: auxiliary rows a step.
        moments: weight of M; 0 is the paper's loss.
        reach: places apart up to which M compares covariances, where there are places: what a filter makes of the
            spectrum of images tells its shape. Each step takes longer with it. At an early cut 4 pays, with more steps
            and 10 for ``moments``; he2019-mnist in docs/papers.md has it.
        tries: shadows that are trained for a quarter of ``train_steps``; the one with the least loss goes on.
        steps: evaluations a victim of the inversion's loss, at most.
        slack: the relative variance of a match; tuning replaces it.
        tune: chooses ``slack`` among 1, 0.3, 0.1 and 0.03 by the SSIM reached on 8 auxiliary images kept aside, sent
            through a second shadow with other first weights: two shadows differ about as much as one does from the
            client's head. It doubles the training, and a shadow that knows of no defense makes that three times.
        aux: auxiliary rows, at most.
        batch: victims inverted at once; it bounds memory.

    Source: He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019 (the query-free attack).
    Differences: the moments, several tries, the defense inside the training, u-shaped, the prior and quasi-Newton steps
    of white-box-inversion, where there total variation and 500 steps of Adam; ``train_steps`` instead of 50 epochs.
    """

    train_steps: int = 600
    lr: float = 5e-3
    batch_size: int = 32
    moments: float = 1.0
    reach: int = 0
    tries: int = 3
    steps: int = 100
    slack: float = 0.3
    tune: bool = True
    aux: int = 2000
    batch: int = 64

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(
        Sees.SMASHED | Sees.BODY | Sees.ARCHITECTURE | Sees.AUX, (Party.SERVER,), uses=Sees.LABELS
    )
    version: ClassVar[int] = 5
    paper: ClassVar[str] = "He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019"
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"train_steps": 100, "steps": 30, "tune": False})

    def __post_init__(self) -> None:
        for name, least in (("train_steps", 1), ("batch_size", 2), ("moments", 0), ("reach", 0), ("tries", 1)):
            if getattr(self, name) < least:
                raise BadSetting(f"query-free: {name} must be at least {least}; got {getattr(self, name)!r}")
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise BadSetting(f"query-free: {name} must be at least 1; got {getattr(self, name)!r}")
        for name in ("lr", "slack"):
            if not getattr(self, name) > 0:
                raise BadSetting(f"query-free: {name} must be positive; got {getattr(self, name)!r}")
        if self.aux < 4 * PRETENDED:
            raise BadSetting(f"query-free: aux must be at least {4 * PRETENDED}; got {self.aux!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """(N, *in) in [0, 1] for all victims."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        rows = view.aux[torch.randperm(len(view.aux), generator=generator)[: self.aux]]
        if len(rows) < 4 * PRETENDED:
            raise BadSetting(f"query-free needs at least {4 * PRETENDED} auxiliary rows; got {len(rows)}")
        aside, used = rows[:PRETENDED], rows[PRETENDED:]
        prior, problem = Spectrum.fit(used.inputs), self._problem(view, used, generator)
        slack, spent, static = self.slack, self._training.spent, None
        if self.tune:
            twin = self._problem(view, used, generator)
            slack, reached, more = self._best_slack(problem, twin, aside.inputs, used, prior, generator)
            spent += self._training.spent + more
            static = unaware(view, (*RELEASE, "penalty", "label_law"))
        if static is not None:
            plain = self._problem(static, used, generator)
            other, without, more = self._best_slack(plain, twin, aside.inputs, used, prior, generator)
            spent += self._training.spent + more
            if without > reached:
                problem, slack = plain, other
        found = [
            self._invert(problem.of_victims(part), prior, used.inputs, slack, self.steps, generator)
            for part in torch.split(torch.arange(problem.victims), self.batch)
        ]
        return Guess(
            ids=view.ids,
            images=torch.cat([optimum.inputs for optimum in found]),
            budget=Budget(
                steps=spent + max(optimum.steps for optimum in found),
                aux=len(rows),
                seconds=time.perf_counter() - began,
            ),
            converged=all(optimum.converged for optimum in found),
            settings={"slack": slack, "adaptive": problem.view.adaptive},
        )

    def _problem(self, view: View, used: Rows, generator: torch.Generator) -> JointLikelihood:
        """What was sent, to be explained through a shadow trained from fresh weights."""
        return JointLikelihood.of(through_shadow(view, self._training(view, used, generator)), releases=1)

    @property
    def _training(self) -> ShadowTraining:
        return ShadowTraining(
            steps=self.train_steps,
            lr=self.lr,
            batch_size=self.batch_size,
            moments=self.moments,
            reach=self.reach,
            tries=self.tries,
        )

    def _best_slack(
        self,
        problem: JointLikelihood,
        twin: JointLikelihood,
        truth: Tensor,
        used: Rows,
        prior: Spectrum,
        generator: torch.Generator,
    ) -> tuple[float, float, int]:
        """The slack that recovers images sent through a twin best, all of `GRID` at once, how well, and the steps."""
        truth = truth[: problem.victims]
        part = problem.of_victims(torch.arange(len(truth)))
        shown = replace(twin, owner=part.owner, head=part.head, count=part.count, victims=part.victims)
        every = replace(part, smashed=shown.pretend(truth, generator).smashed).repeat(len(GRID))
        slacks = torch.tensor(GRID, dtype=truth.dtype).repeat_interleave(len(truth))
        found = self._invert(every, prior, used.inputs, slacks, max(int(SHARE * self.steps), 1), generator)
        wanted = truth.repeat(len(GRID), *[1] * (truth.ndim - 1))
        error = (found.inputs - wanted).square().flatten(1).mean(1)
        good = ssim(found.inputs, wanted) if truth.ndim == 4 else -error
        means = good.view(len(GRID), -1).mean(1)
        return GRID[int(means.argmax())], float(means.max()), found.steps

    def _invert(
        self,
        sent: JointLikelihood,
        prior: Spectrum,
        known: Tensor,
        slack: float | Tensor,
        steps: int,
        generator: torch.Generator,
    ) -> Optimum:
        """Quasi-Newton steps from a linear guess, fitted to what the shadow makes of auxiliary images."""
        some, misfit = spread(known, 256), sent.misfit(slack)
        linear = LinearInverse.fit(sent.like_latest(some, generator), some)

        def loss(inputs: Tensor) -> Tensor:
            return misfit(inputs) / inputs[0].numel() + prior.penalty(inputs)

        return optimise_inputs(loss, linear(sent.latest()).clamp(0, 1), steps=steps, scale=prior.colour)
