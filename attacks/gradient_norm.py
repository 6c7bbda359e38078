# SPDX-License-Identifier: Apache-2.0
"""Labels from the length of the gradient that the label owner returns."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from splitguard.api import ATTACKS, Attack, Budget, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.anchors import Anchored

#: Stands for the length 0, whose logarithm no distance can be taken to.
TINY = 1e-30


@ATTACKS.add("gradient-norm")
@dataclass(kw_only=True)
class GradientNorm(Attack):
    """The class whose known sample has a gradient of most nearly the same length.

        score(n, k) = -| log ||g_n|| - a_k |

    with g_n the per-sample gradient at the cut and a_k the mean log length over the known samples of class k. With two
    classes the difference of these scores would not rank samples beyond the anchors, so there

        score(n, 1) = -score(n, 0) = sign(a_1 - a_0) (log ||g_n|| - (a_0 + a_1) / 2),

    which gives the same labels and ranks by length alone, with a sign that the known samples fix in advance. It has no
    settings. A network that predicts a class seldom returns long gradients for it: rare classes leak first.

    Source: Li et al., Label leakage and protection in two-party split learning, ICLR 2022. Differences: any number of
    classes; known samples, where there the rare class is known to have the longer gradients; scored over all batches
    at once, where there the median and the 95th percentile over batches are given.
    """

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(
        Sees.SMASHED | Sees.LABEL_GRAD | Sees.KNOWN, (Party.SERVER, Party.CLIENT), uses=Sees.NOTHING
    )
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Li et al., Label leakage and protection in two-party split learning, ICLR 2022"

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K); a class without a known sample is guessed for no victim."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        found = Anchored.of(view)
        lengths = found.victims.norm(dim=1).clamp(min=TINY).log()
        anchors = found.mean_of_class(found.known.norm(dim=1).clamp(min=TINY).log())
        if view.classes == 2 and not bool(anchors.isnan().any()):
            positive = (anchors[1] - anchors[0]).sign() * (lengths - anchors.mean())
            scores = torch.stack([-positive, positive], dim=1)
        else:
            scores = -(lengths[:, None] - anchors).abs()
            scores = scores.nan_to_num(float(scores.nan_to_num(0).min()) - 1)
        return Guess(
            ids=view.ids, labels=scores.argmax(1), scores=scores, budget=Budget(seconds=time.perf_counter() - began)
        )
