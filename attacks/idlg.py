# SPDX-License-Identifier: Apache-2.0
"""The label of a batch of one, from the signs in the last layer's update."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from splitguard.api import ATTACKS, Attack, Budget, Goal, Guess, NotSupported, Party, Sees, Threat, View
from splitguard.building.updates import last_layers


@ATTACKS.add("idlg")
@dataclass(kw_only=True)
class IDLG(Attack):
    """The class whose row of the last layer alone is pulled towards its input.

    For one row with the last layer's input h (D,), label y and predictions p the gradient of cross entropy is

        dL/dW_k = (p_k - [k = y]) h,      dL/db_k = p_k - [k = y]

    so ``y = argmin_k sum_d dL/dW_kd`` wherever h >= 0 and h is not 0, as behind a ReLU, sigmoid or softplus; and
    ``y = argmin_k dL/db_k`` for any h. It is the fed server's, in splitfed where the clients hold the tail
    (``labels: client``) and each averaging follows one step on one row (``batch_size: 1, average_every: 1``). The
    gradient comes from the layers before and after the step and the public optimizer: plain SGD, momentum and weight
    decay are undone exactly; with Adam or AdamW it is exact at a client's first step of the session alone, with RMSprop
    at each (its signs are the gradient's). ``exact`` in the guess's settings is the share of updates for which that
    holds. Noise on the gradient that the tail returns at the cut does not touch it: the update is computed beside it.

    Args:
        use_bias: read the bias's gradient where the layer has one, which asks nothing of h; the paper reads row sums.

    Raises:
        NotSupported: from `run`, for an update made of several rows; or if the tail does not end in a linear layer.

    Source: Zhao, Mopuri, Bilen, iDLG: improved deep leakage from gradients, arXiv 2001.02610, 2020. Differences: the
    bias; there the gradient itself is sent. Code in use that is called iDLG and hands back the true labels is an
    oracle; here no label is within reach.
    """

    use_bias: bool = True

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.UPDATES | Sees.TAIL, (Party.FED_SERVER,), uses=Sees.NOTHING)
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Zhao et al., iDLG: improved deep leakage from gradients, arXiv 2001.02610, 2020"

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K): the negative gradient, at most 1; summed over a row's updates."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        place = {int(i): n for n, i in enumerate(view.ids)}
        scores = torch.zeros(len(view.ids), view.classes, dtype=torch.float64)
        layers = last_layers(view)
        for layer in layers:
            if len(layer.ids) != 1:
                raise NotSupported(
                    f"idlg: it takes one row's label from one row's gradient; an update was made of {len(layer.ids)} "
                    "rows. Use llg, or train with batch_size: 1 and average_every: 1"
                )
            pull = layer.bias_grad if self.use_bias and layer.bias_grad is not None else layer.row_sums
            if int(layer.ids) in place:
                scores[place[int(layer.ids)]] -= pull / pull.abs().max().clamp(min=torch.finfo(pull.dtype).tiny)
        return Guess(
            ids=view.ids,
            labels=scores.argmax(1),
            scores=scores,
            settings={"exact": sum(layer.exact for layer in layers) / len(layers)},
            budget=Budget(seconds=time.perf_counter() - began),
        )
