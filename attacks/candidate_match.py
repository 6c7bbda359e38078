# SPDX-License-Identifier: Apache-2.0
"""Which of the candidates was sent: the one that explains all releases best."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.likelihood import SAMPLE, JointLikelihood

#: Keeps the scores finite where there is no noise; beside any noise worth the name it does not count.
SLACK = 1e-9


@ATTACKS.add("candidate-match")
@dataclass(kw_only=True)
class CandidateMatch(Attack):
    """The most likely candidate under the joint likelihood of a victim's releases.

        choice = argmin over x of  sum_t ||m(f_t(x)) - z_t||^2 / sigma^2

    with f_t the head that made release t and m the defense without its noise; with Laplace noise,
    ``2 sqrt(2) ||.||_1 / sigma`` in place of the square. It is the attack that the bound of a
    clipped Gaussian release speaks of: with N candidates, P(correct) <= Phi(Phi^-1(1/N) + sqrt(T) C / sigma). Where the
    noise is Gaussian and every candidate as likely as any other, nothing that judges each victim by its own releases
    does better. The victims of a session are a permutation of its candidates, so who assigns all of them together may.

    An attacker that is not adaptive takes the last release alone and knows of no defense.

    Args:
        releases: heads a victim is matched through, at most, spread evenly over time; releases by one head are averaged
            and count as one. All of them are needed to meet the bound.

    Source: reconstruction among known candidates is the game of Balle, Cherubin, Hayes, Reconstructing training data
    with informed adversaries, IEEE S&P 2022; theirs is played on models, this one on what crosses the cut.
    """

    releases: int = 256

    goal: ClassVar[Goal] = Goal.CANDIDATES
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.HEAD | Sees.AUX | Sees.CANDIDATES, (Party.SERVER,))
    version: ClassVar[int] = 3
    paper: ClassVar[str] = "Balle, Cherubin, Hayes, Reconstructing training data with informed adversaries, S&P 2022"

    def __post_init__(self) -> None:
        if self.releases < 1:
            raise BadSetting(f"candidate-match: releases must be at least 1; got {self.releases!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``choices`` (N,) among the candidates, and ``scores`` (N, M), log likelihoods up to a constant a victim."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        misfit = JointLikelihood.of(view, releases=self.releases, exact=True).over(view.candidates, SLACK)
        return Guess(
            ids=view.ids,
            choices=misfit.argmin(1),
            scores=-misfit / 2,
            budget=Budget(aux=min(len(view.aux), SAMPLE), seconds=time.perf_counter() - began),
        )
