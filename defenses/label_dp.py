# SPDX-License-Identifier: Apache-2.0
"""Randomised response on the labels, answered once for each row and remembered for the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from splitguard import privacy
from splitguard.api import DEFENSES, BadSetting, Context, Defense, Deployment, Guarantee, NotSupported, Phase, Spec
from splitguard.building.label_side import against
from splitguard.errors import one_of

__all__ = ["LabelDp"]

Prior = Literal["uniform", "aux"]


@DEFENSES.add("label-dp")
@dataclass(kw_only=True)
class LabelDp(Defense):
    """Trains on an answer ``a ~ R(. | y)`` in place of each label y, drawn once a row and the same ever after.

    With the uniform prior R is k-ary randomised response: the truth with probability
    ``e^epsilon / (e^epsilon + k - 1)`` (for ten classes .232, .451, .858 at epsilon 1, 2, 4), else one of the other
    classes. With ``prior: aux`` it is RRWithPrior, which answers only with the classes that are likely enough (see
    `splitguard.privacy.response`).

    Along the channel ``labels`` this is pure epsilon, delta 0, for any number of epochs and for all that the adversary
    sees: everything is computed from the one answer, which is also what the defenses beside this one are shown. The
    adversary is the server where the client owns the labels (they are sent, or stay at the client and reach the server
    as gradients), and the client where the server owns them.

    What it does not stop: a model trained on many answers predicts the true labels of rows it sees, as it would of rows
    it was never trained on. Attacks that read labels off the smashed data or complete the model therefore go on
    working; that is what the input says of its label, not what the label's owner said.

    Args:
        epsilon: above 0, up to 30 (rarer answers cannot be drawn with floating point numbers).
        prior: ``uniform``; or ``aux``: the class frequencies of the auxiliary rows, which are not private.

    Raises:
        BadSetting: for settings outside their range; from `bind`, if ``aux`` finds no auxiliary rows; from
            `on_labels`, for labels that are none of the task's classes.

    Source: Warner, Randomized response, JASA 1965, for k classes as in Kairouz, Oh, Viswanath, JMLR 2016; RRWithPrior:
    Ghazi, Golowich, Kumar, Manurangsi, Zhang, Deep learning with label differential privacy, NeurIPS 2021. Differences:
    one prior for all rows, where their second stage takes one a row from a model of the first. Code in use draws a new
    answer for each batch and still states one epsilon: after 50 epochs the majority answer is right 86 times in 100 at
    epsilon 1 with ten classes, where one answer is right 23 times.
    """

    epsilon: float = 2.0
    prior: Prior = "uniform"
    _table: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _answers: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _guarantee: Guarantee | None = field(default=None, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Ghazi et al., Deep learning with label differential privacy, NeurIPS 2021"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "labels"
    breakers: ClassVar[tuple[Spec, ...]] = (
        "stated-labels",
        {"stated-labels": {"prior": "aux"}},
        "similarity-smashed",
        "model-completion",
        "similarity",
        "gradient-spectral",
        "gradient-cosine",
        "gradient-norm",
        "exploit",
    )

    def __post_init__(self) -> None:
        privacy.keep_probability(epsilon=self.epsilon, classes=2)
        one_of("label-dp", "prior", self.prior, get_args(Prior))

    def bind(self, deployment: Deployment) -> None:
        """Fixes the distribution of the answers, and what it guarantees here."""
        prior = torch.ones(deployment.classes)
        if self.prior == "aux":
            if len(deployment.aux) == 0:
                raise BadSetting("label-dp: prior: aux counts the labels of auxiliary rows, and there are none")
            prior = torch.bincount(deployment.aux.labels, minlength=deployment.classes)
        self._table = privacy.response(prior, epsilon=self.epsilon)
        epsilon = min(self.epsilon, privacy.epsilon_of_response(self._table))  # less where all get the same answer
        kind = "k-ary randomised response" if self.prior == "uniform" else "RRWithPrior"
        answers = int((self._table > 0).any(0).sum())
        self._guarantee = Guarantee(
            channel="labels",
            epsilon_rows=epsilon,
            epsilon=epsilon,
            epsilon_query=None,
            delta=0.0,
            adjacency="replace-one",
            sensitivity=None,
            T=max(deployment.releases.get(Phase.TRAINING, 0), 1),
            adversary=against(deployment),
            mechanism=f"{kind} with {answers} answers, drawn once for each row and remembered",
            exclusions=("a query carries no label", "what an input itself tells of its label is not hidden"),
        )

    def on_labels(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N,): the answer of each row: the remembered one, or for a row's first time one drawn from ``generator``."""
        if self._table is None:
            raise NotSupported("label-dp: answers are drawn for a deployment; call bind before labels are used")
        ids, truth, classes = ctx.ids.tolist(), labels.tolist(), len(self._table)
        if len(ids) != len(truth) or not all(0 <= y < classes for y in truth):
            raise BadSetting(
                f"label-dp: wanted an id for each label, and labels in 0..{classes - 1}; got {len(ids)} ids and labels "
                f"{sorted(set(truth))}"
            )
        new = {row: y for row, y in zip(ids, truth, strict=True) if row not in self._answers}
        if new:
            law = self._table[list(new.values())].to(generator.device)
            drawn = torch.multinomial(law, 1, generator=generator)[:, 0].tolist()
            self._answers |= dict(zip(new, drawn, strict=True))
        return torch.tensor([self._answers[row] for row in ids], dtype=labels.dtype, device=labels.device)

    def label_law(self) -> Tensor | None:
        """(K, K) float64, from `splitguard.privacy.response`; None before `bind`."""
        return self._table

    def privacy(self) -> tuple[Guarantee, ...]:
        """One statement about the labels."""
        return () if self._guarantee is None else (self._guarantee,)

    def state_dict(self) -> dict[str, Any]:
        """The distribution, every answer given, and the guarantee; empty before `bind`."""
        if self._table is None or self._guarantee is None:
            return {}
        return {
            "table": self._table,
            "ids": torch.tensor(list(self._answers), dtype=torch.int64),
            "answers": torch.tensor(list(self._answers.values()), dtype=torch.int64),
            "guarantee": self._guarantee.as_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; a row that was answered keeps its answer."""
        if not state:
            return
        self._table = state["table"]
        self._answers = dict(zip(state["ids"].tolist(), state["answers"].tolist(), strict=True))
        self._guarantee = Guarantee.from_dict(state["guarantee"])
