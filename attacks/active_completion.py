# SPDX-License-Identifier: Apache-2.0
"""Model completion by a client that makes the layers above it rely on its own, by scaling up its own gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitguard.api import ATTACKS, BadSetting, ClientAttack, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.completion import READS, Completion

#: Keeps the ratio finite where the last gradient was 0.
TINY = 1e-7


@ATTACKS.add("active-completion")
@dataclass(kw_only=True)
class ActiveCompletion(Completion, ClientAttack):
    """Speeds its own layers up while they train, then completes the model.

        g'_t = g_t clamp(1 + gamma g_t / (g'_{t-1} +- 1e-7), 1, most),    then as `model-completion`

    coordinate by coordinate, with the sign of g'_{t-1}, so that nothing is divided by 0. A coordinate whose gradient
    keeps its sign takes longer steps, so that the attacker's layers learn faster than the others', and the network
    comes to rely on them: more of the labels ends up in what they make. Only its own optimizer changes; what it sends
    and receives follows the protocol.

    Args:
        gamma: strength; 0 is an honest client, to the bit.
        most: largest factor.
        labelled: rows a class that known samples are filled up to; where more are known, all of them are used.
        queries: of a server; a client has its own head and needs none.
        layers: of the classifier, each BatchNorm, ReLU, linear; hidden ones have 128 units.
        finetune: trains a copy of the client's head along.
        steps: optimizer steps of the completion.
        lr: Adam's step size.
        batch_size: labelled rows a step, and as many unlabelled ones.
        temperature: of the sharpening, in (0, 1].
        alpha: of the Beta distribution that mixing shares are drawn from; 0 mixes nothing.
        unlabelled: weight of the unlabelled rows; it rises from 0 over the steps.
        average: decay of the averaged weights that label the victims.

    Source: Fu et al., Label inference attacks against vertical federated learning, USENIX Security 2022 (active, their
    MaliciousSGD). Differences: there the factor is taken of the momentum buffer, and scales that buffer; here of the
    gradient, before whatever optimizer the deployment uses. The completion as in `model-completion`.
    """

    gamma: float = 1.0
    most: float = 5.0
    _applied: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.KNOWN, (Party.CLIENT,), uses=READS, active=True)
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Fu et al., Label inference attacks against vertical federated learning, USENIX Sec 2022"
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"steps": 100})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma >= 0:
            raise BadSetting(f"active-completion: gamma must be 0 or more; got {self.gamma!r}")
        if not self.most >= 1:
            raise BadSetting(f"active-completion: most must be at least 1; got {self.most!r}")

    def start(self, view: View, generator: torch.Generator) -> None:
        """Forgets the gradients of an earlier session."""
        self._applied = []

    def client_grads(self, grads: Sequence[Tensor], step: int) -> Sequence[Tensor]:
        """The gradients, scaled; the first ones as they are."""
        if self._applied:
            earlier = [last.to(now) for now, last in zip(grads, self._applied, strict=True)]
            grads = [
                now * (1 + self.gamma * now / torch.where(last < 0, last - TINY, last + TINY)).clamp(1, self.most)
                for now, last in zip(grads, earlier, strict=True)
            ]
        self._applied = [g.detach().clone() for g in grads]
        return grads

    def state_dict(self) -> dict[str, Any]:
        """The gradients applied last."""
        return {"applied": self._applied}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._applied = list(state["applied"])

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K), log-probabilities."""
        view.need(self.threat.needs)
        return self.complete(view, generator)
