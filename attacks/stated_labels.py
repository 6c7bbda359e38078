# SPDX-License-Identifier: Apache-2.0
"""Labels from what a client stated in their place, by a server that knows how statements are made."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from splitguard.api import ATTACKS, Attack, Budget, Goal, Guess, MissingKnowledge, Party, Sees, Threat, View
from splitguard.errors import one_of

__all__ = ["StatedLabels"]

Prior = Literal["uniform", "aux"]


@ATTACKS.add("stated-labels")
@dataclass(kw_only=True)
class StatedLabels(Attack):
    """The class that best explains the labels which crossed the wire, where a defense changed them first.

        y_hat = argmax_y  pi_y * R(a | y)                                    score(n, y) = log of that

    with a the label stated for the row, R the defense's law of statements (`Defense.label_law`, known to whoever knows
    the defense, as `label-dp`'s is) and pi the prior. Statements of a row that never change over its releases are one
    answer, remembered, and count once; where any row's do change they are taken for answers drawn anew, and the product
    over them counts: over those that the view holds, which in a session are of one epoch (`Training.context_epoch`). It
    is the best guess of the labels from the statements alone; what the smashed data tell of a label beside them,
    `model-completion` and `similarity-smashed` look for. An attacker that is not adaptive, or does not know R, believes
    what was stated most often.

    With randomised response over K classes that keeps the truth with probability p, one answer a row and pi uniform,
    its accuracy is p in expectation, whatever the classes' frequencies; with the true pi it is
    ``sum_a max_y pi_y R(a | y)``, the highest that any guess from one statement reaches.

    Args:
        prior: ``uniform``: the largest R counts, which is best in the mean over classes, the measure of leakage;
            ``aux``: the class frequencies of the auxiliary rows, best in plain accuracy. Where classes are rare and R
            is weak that is to guess the majority, and no leakage.

    Raises:
        BadSetting: for an unknown prior.
        MissingKnowledge: from `run`, for ``prior: aux`` without auxiliary rows.

    Source: the Bayes classifier behind randomised response (Warner, JASA 1965; Kairouz, Oh, Viswanath, JMLR 2016). The
    literature on label inference has the labels absent from the wire.
    """

    prior: Prior = "uniform"

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.LABELS, (Party.SERVER,), uses=Sees.AUX)
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Kairouz, Oh, Viswanath, Extremal mechanisms for local differential privacy, JMLR 2016"

    def __post_init__(self) -> None:
        one_of("stated-labels", "prior", self.prior, get_args(Prior))

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K), log posterior up to a constant a row."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        counts = _counts(view)
        law = view.defense.label_law() if view.adaptive else None
        scores, aux = counts, 0
        if law is not None:
            prior, aux = self._prior(view)
            scores = counts @ _log(law.double()).T + _log(prior / prior.sum())
        return Guess(
            ids=view.ids,
            labels=scores.argmax(1),
            scores=scores,
            settings={"law": "believed" if law is None else "known"},
            budget=Budget(aux=aux, seconds=time.perf_counter() - began),
        )

    def _prior(self, view: View) -> tuple[Tensor, int]:
        """(K,) float64, not normalised, and on how many auxiliary rows it was counted."""
        if self.prior == "uniform":
            return torch.ones(view.classes, dtype=torch.float64), 0
        if bool(view.class_prior.isnan().any()):
            raise MissingKnowledge("stated-labels: prior: aux counts classes on auxiliary rows; this view has none")
        return view.class_prior.double(), len(view.aux)


def _counts(view: View) -> Tensor:
    """(N, K) float64: how often each class was stated for each victim; 1 where a row's statements never change."""
    sent = view.releases
    assert sent.labels is not None  # the threat needs them
    place = torch.full((int(max(sent.ids.max(), view.ids.max())) + 1,), -1)
    place[view.ids] = torch.arange(len(view.ids))
    mine = place[sent.ids] >= 0
    stated = one_hot(sent.labels[mine].cpu(), view.classes).double()
    counts = torch.zeros(len(view.ids), view.classes, dtype=torch.float64).index_add_(0, place[sent.ids[mine]], stated)
    remembered = bool(((counts > 0).sum(1) <= 1).all())
    return counts.clamp(max=1) if remembered else counts


def _log(value: Tensor) -> Tensor:
    """Its logarithm, finite where it is 0."""
    return value.clamp(min=torch.finfo(torch.float64).tiny).log()
