# SPDX-License-Identifier: Apache-2.0
"""Labels from the directions in which what the label owner returns, or is given, varies most."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch.nn import functional as F

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.anchors import Anchored
from splitguard.building.clusters import cluster_scores, k_means, top_directions
from splitguard.building.embeddings import OWN_SIDE
from splitguard.errors import one_of

Reads = Literal["gradients", "activations"]


@ATTACKS.add("gradient-spectral")
@dataclass(kw_only=True)
class GradientSpectral(Attack):
    """Clusters of rows along their top singular directions, named by the known samples.

        A = U S V^T,    c = A V_{K-1},    score(n, k) = -||c_n - m_k||^2

    with A the rows (N, D) of one epoch, centred, V_{K-1} their K - 1 largest right singular vectors (K class means span
    no more), and m_k the k-means centre that is matched to class k by the least distance to the known samples. With two
    classes that is one axis, cut in two. Directions come from the rows alone, so that one known sample a class, which
    may be an odd one, only names a cluster and never shapes it. An attacker who knows the defense takes gradients as
    `Defense.restored` gives them.

    Args:
        of: ``gradients`` that the label owner returned; or the ``activations`` it is given by the network as deployed,
            which defenses of gradients leave as they are.
        unit: scales rows to length 1 first; gradients shrink as the network learns, and their direction stays.
        starts: of k-means; the best by its own objective counts.

    Source: Sun et al., Label leakage and protection from forward embedding in vertical federated learning, 2022 (two
    classes, embeddings, sign of the top singular vector in each batch). Differences: any number of classes; gradients,
    as the default; all batches of an epoch at once; known samples name the clusters, where there the rarer side is the
    rarer class. Libraries that cluster gradients name the clusters by the true labels, which no attacker has.
    """

    of: Reads = "gradients"
    unit: bool = True
    starts: int = 10

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(
        Sees.SMASHED | Sees.LABEL_GRAD | Sees.KNOWN, (Party.SERVER, Party.CLIENT), uses=OWN_SIDE
    )
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Sun et al., Label leakage and protection from forward embedding in VFL, 2022"

    def __post_init__(self) -> None:
        one_of("gradient-spectral", "of", self.of, get_args(Reads))
        if self.starts < 1:
            raise BadSetting(f"gradient-spectral: starts must be at least 1; got {self.starts!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K), at most 0."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        found = Anchored.of(view, self.of)
        rows = torch.cat([found.victims, found.known])
        if self.unit:
            rows = F.normalize(rows, dim=1)
        rows = rows - rows.mean(0)
        rows = rows @ top_directions(rows, view.classes - 1, generator)
        victims, known = rows.split([len(found.victims), len(found.known)])
        centres = k_means(rows, view.classes, generator, starts=self.starts)
        scores = cluster_scores(victims, known, found.labels, view.classes, centres)
        return Guess(
            ids=view.ids,
            labels=scores.argmax(1),
            scores=scores,
            budget=Budget(steps=self.starts, seconds=time.perf_counter() - began),
        )
