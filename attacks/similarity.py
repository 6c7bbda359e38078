# SPDX-License-Identifier: Apache-2.0
"""Labels from what rows resemble: known samples, clusters that these name, or neighbours of neighbours."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.anchors import Anchored
from splitguard.building.clusters import cluster_scores, k_means
from splitguard.building.embeddings import OWN_SIDE
from splitguard.errors import one_of

Method = Literal["anchors", "k-means", "spreading"]


@ATTACKS.add("similarity")
@dataclass(kw_only=True)
class Similarity(Attack):
    """Compares the gradients that the label owner returned, each scaled to length 1: u = g / ||g||.

        anchors     score(n, k) = max over known samples a of class k of <u_n, u_a>
        k-means     score(n, k) = -||u_n - m_k||^2, the K centres m matched to classes by the known samples
        spreading   score(n, k) = share of class k in the labels that flow to n over a graph of nearest neighbours;
                    where none arrives, that of the nearest known sample

    An attacker who knows the defense takes g as `Defense.restored` gives it.

    Args:
        method: ``anchors`` needs no second row to resemble; ``k-means`` is least misled by an odd known sample;
            ``spreading`` follows classes that are no balls.
        starts: of k-means; the best by its own objective counts.
        neighbours: that each row is linked to in spreading.
        clamp: in (0, 1), how much of a row's label may come from its neighbours in one round of spreading.

    Source: Liu et al., Similarity-based label inference attack against training and inference of split learning, IEEE
    TIFS 2024. Differences: spreading (Zhou et al., Learning with local and global consistency, NeurIPS 2003) is added;
    clusters are matched by distances, where there a count of known samples leaves ties.
    """

    method: Method = "k-means"
    starts: int = 10
    neighbours: int = 20
    clamp: float = 0.2

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(
        Sees.SMASHED | Sees.LABEL_GRAD | Sees.KNOWN, (Party.SERVER, Party.CLIENT), uses=Sees.NOTHING
    )
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Liu et al., Similarity-based label inference attack, IEEE TIFS 2024"
    reads: ClassVar[Literal["gradients", "activations"]] = "gradients"

    def __post_init__(self) -> None:
        one_of(self.name, "method", self.method, get_args(Method))
        for name in ("starts", "neighbours"):
            if getattr(self, name) < 1:
                raise BadSetting(f"{self.name}: {name} must be at least 1; got {getattr(self, name)!r}")
        if not 0 < self.clamp < 1:
            raise BadSetting(f"{self.name}: clamp must lie in (0, 1); got {self.clamp!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K)."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        found = Anchored.of(view, self.reads)
        victims, known = F.normalize(found.victims, dim=1), F.normalize(found.known, dim=1)
        match self.method:
            case "anchors":
                scores, steps = found.complete(_nearest(victims @ known.T, found.labels, found.classes)), 0
            case "k-means":
                centres = k_means(torch.cat([victims, known]), found.classes, generator, starts=self.starts)
                scores, steps = cluster_scores(victims, known, found.labels, found.classes, centres), self.starts
            case "spreading":
                scores, steps = self._spread(victims, known, found)
        return Guess(
            ids=view.ids,
            labels=scores.argmax(1),
            scores=scores,
            budget=Budget(steps=steps, seconds=time.perf_counter() - began),
        )

    def _spread(self, victims: Tensor, known: Tensor, found: Anchored) -> tuple[Tensor, int]:
        """Scores (N, K), 0 for a class without a known sample, and the rounds it took."""
        from sklearn.semi_supervised import LabelSpreading

        rows = torch.cat([victims, known]).numpy()
        given = torch.cat([found.labels.new_full((len(victims),), -1), found.labels]).numpy()
        links = min(self.neighbours, len(rows))
        model = LabelSpreading(kernel="knn", n_neighbors=links, alpha=self.clamp, max_iter=1000).fit(rows, given)
        scores = victims.new_zeros(len(victims), found.classes)
        scores[:, torch.from_numpy(model.classes_)] = torch.from_numpy(model.label_distributions_[: len(victims)])
        lost = scores.sum(1) == 0
        nearest = found.labels[(victims[lost] @ known.T).argmax(1)]
        scores[lost] = F.one_hot(nearest, found.classes).to(scores) / found.classes
        return scores, int(model.n_iter_)


@ATTACKS.add("similarity-smashed")
@dataclass(kw_only=True)
class SimilaritySmashed(Similarity):
    """Compares what the label owner is given, each row scaled to length 1: features in u-shaped, else smashed data.

    Gradients are not read, so that no defense of gradients or of labels helps; nor does one that ends with training,
    since the rows are made by the deployed network: by the client from its own inputs, or by the server from recorded
    smashed data. What was recorded during an epoch resembles what was sent at the same time, more than its own class.

    Args:
        method: ``anchors``, ``k-means`` or ``spreading``, as in `similarity`.
        starts: of k-means; the best by its own objective counts.
        neighbours: that each row is linked to in spreading.
        clamp: in (0, 1), how much of a row's label may come from its neighbours in one round of spreading.

    Source: Liu et al., Similarity-based label inference attack against training and inference of split learning, IEEE
    TIFS 2024, the attack on inference. Differences: as in `similarity`; rows are scaled to length 1 here too.
    """

    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.KNOWN, (Party.SERVER, Party.CLIENT), uses=OWN_SIDE)
    version: ClassVar[int] = 1
    reads: ClassVar[Literal["gradients", "activations"]] = "activations"


def _nearest(cosines: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(N, K): the largest of the cosines (N, A) to each class's known samples; NaN for a class without any."""
    columns = [cosines[:, labels == k] for k in range(classes)]
    missing = cosines.new_full((len(cosines), 1), torch.nan)
    return torch.cat([c.max(1, keepdim=True).values if c.shape[1] else missing for c in columns], dim=1)
