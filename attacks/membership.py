# SPDX-License-Identifier: Apache-2.0
"""Which rows were trained on: those of whose label the server's layers are surer than strangers to them would be."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Labels, Party, Sees, Threat, View
from splitguard.building.reference import confidence, fitted, fresh_fitted
from splitguard.metrics import auc

#: Shares of the references' confidence that are tried: 0 is the plain confidence of Yeom et al.
SHARES = (0.0, 0.5, 1.0)
#: Auxiliary rows that each of the three parts of a rehearsal needs at least.
ENOUGH = 4


@ATTACKS.add("membership")
@dataclass(kw_only=True)
class Membership(Attack):
    """The confidence of the deployed body in a row's label, less what networks have that never saw the row.

        score = phi(b(z), y) - w mean_r phi(b_r(z), y),     phi(b, y) = log p_y - log(1 - p_y)

    with b the body (behind it the tail, in u-shaped), z the row's smashed data and b_r references: fresh bodies trained
    on what the pipeline answers to auxiliary rows. They tell a hard row from one that was not learned. Where the label
    is not seen, y is the one that b finds most likely. Where the tail is not known, a linear layer fitted to auxiliary
    rows stands for it.

    The weight w is chosen, of 0, 1/2 and 1, in a rehearsal on auxiliary rows: a body trained on one third of them plays
    the deployed one, and must tell that third from another by references made from the last. Without queries or with
    few auxiliary rows w is 0, the plain loss threshold of Yeom et al.

    Args:
        references: networks trained to compare with; 0 for none.
        steps: of Adam, for each of them.
        aux: auxiliary rows, at most.

    Source: Yeom, Giacomelli, Fredrikson, Jha, Privacy risk in machine learning, CSF 2018: the loss; Watson, Guo,
    Cormode, Sablayrolles, On the importance of difficulty calibration in membership inference attacks, ICLR 2022: the
    references; Carlini et al., Membership inference attacks from first principles, S&P 2022: the logit scale.
    Differences: it works on smashed data, and the weight of the references is rehearsed.
    """

    references: int = 2
    steps: int = 300
    aux: int = 2000

    goal: ClassVar[Goal] = Goal.MEMBERSHIP
    threat: ClassVar[Threat] = Threat(
        Sees.SMASHED | Sees.BODY, (Party.SERVER,), uses=Sees.LABELS | Sees.AUX | Sees.QUERY | Sees.TAIL
    )
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Yeom, Giacomelli, Fredrikson, Jha, Privacy risk in machine learning, CSF 2018"
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"steps": 60, "references": 1})

    def __post_init__(self) -> None:
        for name, least in (("references", 0), ("steps", 1), ("aux", 1)):
            if getattr(self, name) < least:
                raise BadSetting(f"membership: {name} must be at least {least}; got {getattr(self, name)!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``scores`` (N, 2): column 1 is the score above, column 0 is 0."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        sent = view.releases.last(view.ids)
        tail_missing = view.labels is Labels.CLIENT and not view.sees(Sees.TAIL)
        own = _Own.of(view, self.aux if self.references or tail_missing else 0, generator)
        network, spent = _deployed(view, own, self.steps, generator)
        labels = sent.labels
        confident = confidence(network, sent.smashed, labels)
        weight, rehearsed = 0.0, math.nan
        if self.references and len(own.labels) >= 3 * ENOUGH:
            weight, rehearsed = self._rehearse(network, own, labels is not None, generator)
            spent += self.steps * (1 + self.references)
        if weight:
            with torch.no_grad():
                likely = network(sent.smashed).argmax(1) if labels is None else labels
            confident = confident - weight * self._references(network, own, sent.smashed, likely, generator)
            spent += self.steps * self.references
        return Guess(
            view.ids,
            scores=torch.stack([torch.zeros_like(confident), confident], dim=1),
            budget=Budget(steps=spent, queries=own.queries, aux=len(own.labels), seconds=time.perf_counter() - began),
            settings={"weight": weight, "rehearsed_auc": rehearsed},
        )

    def _rehearse(self, network: nn.Module, own: _Own, told: bool, generator: torch.Generator) -> tuple[float, float]:
        """The best of `SHARES` on auxiliary rows alone, and the AUC that it reaches there."""
        order = torch.randperm(len(own.labels), generator=generator)
        inside, outside, others = (order[start::3] for start in range(3))
        shadow = fresh_fitted(network, own.smashed[inside], own.labels[inside], steps=self.steps, generator=generator)
        asked = torch.cat([inside, outside])
        smashed = own.smashed[asked]
        with torch.no_grad():
            labels = own.labels[asked] if told else shadow(smashed).argmax(1)
        plain = confidence(shadow, smashed, labels)
        base = self._references(network, own.part(others), smashed, labels, generator)
        truth = (torch.arange(len(asked)) < len(inside)).long().to(plain.device)
        reached = {share: auc(plain - share * base, truth) or 0.0 for share in SHARES}
        best = max(SHARES, key=lambda share: reached[share])
        return best, reached[best]

    def _references(
        self, network: nn.Module, own: _Own, smashed: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """(N,): the mean confidence of fresh networks that were trained on auxiliary rows."""
        total = smashed.new_zeros(len(smashed), dtype=torch.float64)
        for _ in range(self.references):
            twin = fresh_fitted(network, own.smashed, own.labels, steps=self.steps, generator=generator)
            total += confidence(twin, smashed, labels)
        return total / self.references


@dataclass(frozen=True)
class _Own:
    """What the pipeline answers to auxiliary rows (M, *cut), and their labels (M,); empty without queries."""

    smashed: Tensor
    labels: Tensor
    queries: int = 0

    @classmethod
    def of(cls, view: View, most: int, generator: torch.Generator) -> _Own:
        if not (most and view.sees(Sees.AUX | Sees.QUERY) and len(view.aux)):
            like = view.releases.smashed
            return cls(like.new_empty(0, *view.cut_shapes[0]), like.new_empty(0, dtype=torch.int64))
        rows = view.aux[torch.randperm(len(view.aux), generator=generator)[:most]]
        return cls(view.query(rows.inputs, generator), rows.labels, len(rows))

    def part(self, rows: Tensor) -> _Own:
        return _Own(self.smashed[rows], self.labels[rows])


def _deployed(view: View, own: _Own, steps: int, generator: torch.Generator) -> tuple[nn.Module, int]:
    """The network from smashed data to logits, and the steps spent on what stands for an unknown tail."""
    body = view.body()
    if view.labels is not Labels.CLIENT:
        return body, 0
    if view.sees(Sees.TAIL) or len(own.labels) == 0:
        return nn.Sequential(body, view.tail()), 0
    tail = nn.utils.skip_init(nn.Linear, math.prod(view.cut_shapes[1]), view.classes).to(own.smashed)
    nn.init.zeros_(tail.weight)
    nn.init.zeros_(tail.bias)
    return fitted(
        nn.Sequential(body, nn.Flatten(), tail), own.smashed, own.labels, steps=steps, generator=generator
    ), steps
