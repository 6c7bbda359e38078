# SPDX-License-Identifier: Apache-2.0
"""How often each label occurs in a batch, from the sizes in the last layer's update."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, NotSupported, Party, Sees, Threat, View
from splitguard.building.updates import LastLayer, last_layers


@ATTACKS.add("llg")
@dataclass(kw_only=True)
class LLG(Attack):
    """Counts a batch's labels: every class whose gradient is negative is there, and each row adds about as much.

    Over a batch of B rows, with the last layer's input h >= 0 and s_n = sum_d h_nd, its weight gradient has row sums

        r_k = (1/B) sum_n p_nk s_n - (1/B) sum_{n: y_n = k} s_n  =  o_k + m c_k + (what the s_n differ in)

    with c_k the number of rows of class k, m = -mean(s) / B what one row adds (impact), and o_k what comes from the
    predictions (offset). A class with r_k < 0 is in the batch, always. Count each such class once and take m off it;
    then, until B are counted, count the class with the smallest rest and take m off *that* one. Of the bias's gradient,
    read where there is one, the same holds with s = 1, for any h: there m = -1/B exactly.

    It finds the batch's multiset of labels, not which row has which: ``scores`` (N, K) of a row are the shares of the
    classes in the multisets of its updates; ``labels`` are handed over only if every batch had one row. Updates made of
    several local steps are linearised: their rows are taken for one batch at the layers before, which is the worse the
    longer and the faster the clients train. The fed server mounts it in splitfed where the clients hold the tail.

    Args:
        passes: LLG+: m and o are measured on so many dummy batches through the last layer as it was before the update,
            with half-normal h of the size that the update shows (which takes a bias; without one it is LLG's guess). 0
            is LLG: m is (1 + 1/K) / B times the sum of the negative r_k, or -1/B where the bias is read; o is 0.
        use_bias: read the bias's gradient where the layer has one; the paper reads row sums.

    Raises:
        NotSupported: from `run`, if the tail does not end in a linear layer, or its optimizer rescales each entry
            (Adam, AdamW, RMSprop), so that the sizes of updates tell nothing.

    Source: Wainakh et al., User-level label leakage from gradients in federated learning, PoPETs 2022 (LLG, LLG*).
    Differences: the bias; dummy inputs of the last layer, where there they are inputs of a whole network, of which the
    fed server has no body; the phase that counts negative classes is kept before the offset comes off.
    """

    passes: int = 10
    use_bias: bool = True

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.UPDATES | Sees.TAIL, (Party.FED_SERVER,), uses=Sees.NOTHING)
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Wainakh et al., User-level label leakage from gradients in federated learning, PoPETs 2022"

    def __post_init__(self) -> None:
        if self.passes < 0:
            raise BadSetting(f"llg: passes must be at least 0; got {self.passes!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``scores`` (N, K), each row summing to 1; ``labels`` (N,) for batches of one row."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        layers = last_layers(view)
        if not all(layer.scaled for layer in layers):
            raise NotSupported(
                f"llg: it reads how large gradients are, which steps of {view.updates.optimizer['name']} do not show. "
                "Use idlg, which reads signs, with batch_size: 1; or train with sgd"
            )
        place = {int(i): n for n, i in enumerate(view.ids)}
        scores = torch.zeros(len(view.ids), view.classes, dtype=torch.float64)
        for layer in layers:
            share = self.counts(layer, generator) / len(layer.ids)
            for i in layer.ids.tolist():
                if i in place:
                    scores[place[i]] += share
        scores /= scores.sum(1, keepdim=True)
        alone = all(len(layer.ids) == 1 for layer in layers)
        return Guess(
            ids=view.ids,
            labels=scores.argmax(1) if alone else None,
            scores=scores,
            settings={"exact": sum(layer.exact for layer in layers) / len(layers)},
            budget=Budget(steps=self.passes * len(layers), seconds=time.perf_counter() - began),
        )

    def counts(self, layer: LastLayer, generator: torch.Generator) -> Tensor:
        """(K,) int64: how often each label is guessed to occur among the n rows of one update; they sum to n."""
        rows = len(layer.ids)
        of_bias = self.use_bias and layer.bias_grad is not None
        rest = (layer.bias_grad if of_bias else layer.row_sums).double().clone()  # type: ignore[union-attr]  # see of_bias
        impact, offset = self._impact(layer, generator, of_bias=of_bias)
        found = torch.zeros(len(rest), dtype=torch.int64)
        present = rest.argsort()[: min(rows, int((rest < 0).sum()))]
        found[present] += 1
        rest[present] -= impact
        rest -= offset
        for _ in range(rows - len(present)):
            chosen = rest.argmin()
            found[chosen] += 1
            rest[chosen] -= impact
        return found

    def _impact(self, layer: LastLayer, generator: torch.Generator, *, of_bias: bool) -> tuple[Tensor, Tensor]:
        """m, a scalar, and o (K,)."""
        rows, classes = len(layer.ids), len(layer.weight)
        sums = layer.row_sums.double()
        none = torch.zeros_like(sums)
        one = torch.tensor(-1 / rows, dtype=torch.float64)
        by_signs = sums.clamp(max=0).sum() / rows * (1 + 1 / classes)
        if self.passes == 0:
            return (one if of_bias else by_signs), none
        size = -by_signs * rows
        if layer.bias_grad is not None and bool(layer.bias_grad.any()):
            size = (sums @ layer.bias_grad) / (layer.bias_grad @ layer.bias_grad)
        width = layer.weight.shape[1]
        drawn = torch.randn(self.passes * rows, width, generator=generator, dtype=torch.float64).abs()
        into = drawn * size.clamp(min=0) / (width * math.sqrt(2 / math.pi))
        logits = into @ layer.weight.double().T + (none if layer.bias is None else layer.bias.double())
        weights = torch.ones(len(into), dtype=torch.float64) if of_bias else into.sum(1)
        offset = (torch.softmax(logits, 1) * weights[:, None]).mean(0)
        return -weights.mean() / rows, offset
