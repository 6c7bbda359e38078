# SPDX-License-Identifier: Apache-2.0
"""Subset selection: a word is answered by a small random set of words that holds it more often than any other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splitguard.errors import BadSetting
from splitguard.privacy.label_dp import LARGEST_EPSILON

__all__ = ["SubsetResponse"]


@dataclass(frozen=True)
class SubsetResponse:
    """Answers a word w of k with a set S of d words, under pure epsilon-DP, delta 0.

        P(S | w) = e^epsilon / Z  if w is in S,  else 1 / Z,      Z = C(k-1, d-1) e^epsilon + C(k-1, d)

    No set is more than e^epsilon times as likely for one word as for another. With d = k / (e^epsilon + 1), rounded, at
    least 1, the answer carries the most information that any answer with this epsilon can, up to a constant; d = 1 is
    k-ary randomised response, which is best where epsilon exceeds log k.

    Attributes:
        words: k, at least 2.
        epsilon: above 0, up to 30.

    Source: Wang, Huang, Wang, Nie, Xiao, Yang, Qi, Zhang, Mutual information optimally local private discrete
    distribution estimation, 2016; Ye, Barg, IEEE Transactions on Information Theory 2018.
    """

    words: int
    epsilon: float

    def __post_init__(self) -> None:
        if self.words < 2 or not 0 < self.epsilon <= LARGEST_EPSILON:
            raise BadSetting(
                f"subset selection needs 2 words or more and an epsilon above 0, up to {LARGEST_EPSILON:g}; got "
                f"words={self.words}, epsilon={self.epsilon!r}"
            )

    @property
    def size(self) -> int:
        """Words in an answer, d."""
        return max(1, round(self.words / (math.exp(self.epsilon) + 1)))

    @property
    def told(self) -> str:
        """Its name, for statements."""
        return "k-ary randomised response" if self.size == 1 else f"subset selection of {self.size} words"

    @property
    def keep(self) -> float:
        """The probability that the answer holds the word: ``d e^epsilon / (d e^epsilon + k - d)``."""
        return 1 / (1 + (self.words - self.size) / self.size * math.exp(-self.epsilon))

    @property
    def stray(self) -> float:
        """The probability that the answer holds any one other word."""
        return (self.size - self.keep) / (self.words - 1)

    def draw(self, word: Tensor, generator: torch.Generator) -> Tensor:
        """(N, d) int64, ascending: an answer to each word (N,)."""
        n, device = len(word), generator.device
        kept = torch.rand(n, generator=generator, device=device, dtype=torch.float64) < self.keep
        order = torch.rand(n, self.words, generator=generator, device=device)
        order.scatter_(1, word.to(device)[:, None], torch.where(kept, 2.0, -1.0)[:, None].to(order))
        return order.topk(self.size, dim=1).indices.sort(dim=1).values.to(word.device)

    def belief(self, answer: Tensor) -> Tensor:
        """(N, k) float64: ``P(w | S)``, uniform prior: e^epsilon for words in the answer (N, d), else 1, over a sum."""
        weight = torch.ones(len(answer), self.words, dtype=torch.float64, device=answer.device)
        weight.scatter_(1, answer, math.exp(self.epsilon))
        return weight / weight.sum(1, keepdim=True)

    def expected_belief(self) -> Tensor:
        """(k, k) float64: row w is the mean of `belief` over the answers to w."""
        held = torch.full((self.words, self.words), self.stray, dtype=torch.float64)
        held.fill_diagonal_(self.keep)
        weight = 1 + math.expm1(self.epsilon) * held
        return weight / weight.sum(1, keepdim=True)
