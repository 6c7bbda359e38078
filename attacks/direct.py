# SPDX-License-Identifier: Apache-2.0
"""Labels read off the gradient of the logits, where the cut lies there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from splitguard.api import ATTACKS, Attack, Budget, Goal, Guess, NotSupported, Party, Sees, Threat, View


@ATTACKS.add("direct")
@dataclass(kw_only=True)
class Direct(Attack):
    """The class whose logit alone is pushed up: exact, without training, data or a known label.

        dL/ds_k = p_k - [k = y],     p = softmax(s)

    so the gradient of cross entropy at the logits s (N, K) has one negative entry, that of the label y; it stays so
    where several parties' logits are added up, and under any positive scale. The cut lies at the logits where the label
    owner has no layers of its own: ``cut: logits`` with ``labels: server``, which is the two-party setting without a
    top model, attacked by the client; or ``cut: conv2..logits`` with ``labels: client``, attacked by the server. The
    scores are ``-dL/ds``. It has no settings. ``one_negative`` in the guess's settings is the share of rows with just
    one negative entry: 1, unless a defense changed the gradient, a row is predicted so surely that its gradient rounds
    to 0, or the cut has as many entries as there are classes and is not at the logits.

    Raises:
        NotSupported: from `run`, if the gradient does not have one entry a class.

    Source: Fu et al., Label inference attacks against vertical federated learning, USENIX Security 2022
    (the direct attack). No differences.
    """

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.LABEL_GRAD, (Party.SERVER, Party.CLIENT), uses=Sees.NOTHING)
    version: ClassVar[int] = 1
    paper: ClassVar[str] = (
        "Fu et al., Label inference attacks against vertical federated learning, USENIX Security 2022"
    )

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K), from each victim's last release."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        gradient = view.label_grad(view.context.last(view.ids)).flatten(1)
        if gradient.shape[1] != view.classes:
            raise NotSupported(
                f"direct: it reads the gradient of {view.classes} logits, one a class; at the cut {view.cuts[-1]} the "
                f"gradient has {gradient.shape[1]} entries a row, since the label owner has layers of its own. Use "
                "gradient-cosine or similarity there, or cut at logits"
            )
        negative = (gradient < 0).sum(1)
        return Guess(
            ids=view.ids,
            labels=gradient.argmin(1),
            scores=-gradient,
            settings={"one_negative": float((negative == 1).double().mean())},
            budget=Budget(seconds=time.perf_counter() - began),
        )
