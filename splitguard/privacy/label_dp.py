# SPDX-License-Identifier: Apache-2.0
"""Randomised response on labels: with which probability each answer is given, and exactly what that guarantees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from splitguard.errors import BadSetting

__all__ = ["LARGEST_EPSILON", "epsilon_of_response", "keep_probability", "response"]

#: Answers with probability e^-30 can still be drawn with 53-bit numbers; much rarer ones cannot.
LARGEST_EPSILON = 30.0


def keep_probability(*, epsilon: float, classes: int) -> float:
    """``e^epsilon / (e^epsilon + k - 1)``: how often k-ary randomised response answers with the truth.

    Args:
        epsilon: above 0, up to `LARGEST_EPSILON`.
        classes: k, at least 1.

    Raises:
        BadSetting: for a value outside its range.

    >>> round(keep_probability(epsilon=4.0, classes=10), 3)
    0.858
    """
    if not 0 < epsilon <= LARGEST_EPSILON:
        raise BadSetting(
            f"epsilon of randomised response must lie above 0 and up to {LARGEST_EPSILON:g}, for rarer answers cannot "
            f"be drawn; got {epsilon!r}"
        )
    if classes < 1:
        raise BadSetting(f"randomised response needs at least one class; got {classes}")
    return 1 / (1 + (classes - 1) * math.exp(-epsilon))


def response(prior: Tensor | Sequence[float], *, epsilon: float) -> Tensor:
    """(K, K) float64: row y is the distribution of the answer to the label y, under RRWithPrior.

    Answers are the k classes of largest prior, with the k at which the answer is most often right,

        k = argmax_k  w_k,    w_k = e^epsilon / (e^epsilon + k - 1) * (sum of the k largest priors);

    a label among them is kept with that first factor and else moved to one of the other k - 1, and any other label is
    answered by one of the k, each equally likely. With a uniform prior k = K, and this is plain k-ary randomised
    response. Whatever the prior, as long as it does not come from the labels that are protected, no answer is more than
    e^epsilon times as likely for one label as for another. Source: Ghazi, Golowich, Kumar, Manurangsi, Zhang, Deep
    learning with label differential privacy, NeurIPS 2021 (algorithms 2 and 3).

    Args:
        prior: (K,) weights of the classes, at least 0, not all 0; they need not sum to 1.
        epsilon: as in `keep_probability`.

    Raises:
        BadSetting: for a value outside its range.

    >>> response([1, 1], epsilon=1.0).round(decimals=3).tolist()
    [[0.731, 0.269], [0.269, 0.731]]
    """
    weights = torch.as_tensor(prior, dtype=torch.float64)
    fine = weights.ndim == 1 and len(weights) > 0 and bool(torch.isfinite(weights).all() & (weights >= 0).all())
    if not fine or float(weights.sum()) == 0:
        raise BadSetting(f"a prior is one weight a class, at least 0 and not all 0; got {weights.tolist()}")
    count = len(weights)
    order = torch.argsort(weights, descending=True, stable=True)
    keep = torch.tensor([keep_probability(epsilon=epsilon, classes=k + 1) for k in range(count)], dtype=torch.float64)
    right = keep * weights[order].cumsum(0) / weights.sum()
    # The largest of those that are equal up to rounding: with a uniform prior and a small epsilon all nearly are.
    k = int(torch.nonzero(right >= right.max() * (1 - 1e-12)).max()) + 1
    answers = order[:k]
    table = torch.zeros(count, count, dtype=torch.float64)
    table[:, answers] = 1 / k
    # The remainder is taken as a product, since 1 - keep would round to 0 first.
    table[answers[:, None], answers] = keep[k - 1] * math.exp(-epsilon)
    table[answers, answers] = keep[k - 1]
    return table


def epsilon_of_response(table: Tensor) -> float:
    """``max log P(answer | y) / P(answer | y')`` over answers and labels y, y': the least epsilon that holds, delta 0.

    Args:
        table: (K, K), as from `response`; an answer that no label gets does not count.

    Returns:
        At least 0; `math.inf` where an answer is possible for one label and impossible for another.
    """
    given = table[:, (table > 0).any(0)].double()
    return float((given.amax(0).log() - given.amin(0).log()).max())
