# SPDX-License-Identifier: Apache-2.0
"""Labels from the direction of the gradient that the label owner returns."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.anchors import Anchored


@ATTACKS.add("gradient-cosine")
@dataclass(kw_only=True)
class GradientCosine(Attack):
    """The class whose known sample has a gradient of most nearly the same direction.

        score(n, k) = <u_n, a_k>,     u = g / ||g||,     a_k = the direction of the mean u of class k's known samples

    with g_n the per-sample gradient at the cut. Under cross entropy and a linear tail ``g = W^T (p - y)``: it points
    away from the weights of its own class. ``rounds`` of spherical k-means then move each anchor to the direction of
    all that is nearest to it, the known samples always among them, because one sample is a noisy anchor. A class
    without a known sample is guessed where a gradient points away from every anchor. An attacker who knows the defense
    takes g as `Defense.restored` gives it.

    Args:
        rounds: of k-means at most; it stops when no label changes. 0 is the nearest known sample.

    Source: Li et al., Label leakage and protection in two-party split learning, ICLR 2022: the cosine to one known
    positive. Liu et al., Similarity-based label inference attack against training and inference of split learning, IEEE
    TIFS 2024: clusters, here started at the known samples instead of matched to them afterwards.
    """

    rounds: int = 10

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(
        Sees.SMASHED | Sees.LABEL_GRAD | Sees.KNOWN, (Party.SERVER, Party.CLIENT), uses=Sees.NOTHING
    )
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Li et al., Label leakage and protection in two-party split learning, ICLR 2022"

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise BadSetting(f"gradient-cosine: rounds must be at least 0; got {self.rounds!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K) in [-1, 1]."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        found = Anchored.of(view)
        victims, known = F.normalize(found.victims, dim=1), F.normalize(found.known, dim=1)
        anchors = F.normalize(found.mean_of_class(known), dim=1)
        scores = found.complete(victims @ anchors.T)
        taken = 0
        for _ in range(self.rounds):
            before = scores.argmax(1)
            members = anchors.new_zeros(anchors.shape).index_add(0, found.labels, known).index_add(0, before, victims)
            anchors = torch.where(anchors.isnan(), anchors, F.normalize(members, dim=1))
            scores = found.complete(victims @ anchors.T)
            taken += 1
            if torch.equal(scores.argmax(1), before):
                break
        return Guess(
            ids=view.ids,
            labels=scores.argmax(1),
            scores=scores,
            budget=Budget(steps=taken, seconds=time.perf_counter() - began),
        )
