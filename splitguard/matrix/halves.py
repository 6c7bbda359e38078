# SPDX-License-Identifier: Apache-2.0
"""Leakage on two halves of the victims: the worst of many attacks is chosen on one and reported on the other.

The largest of many noisy numbers is too large; on victims that had no say in the choice it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitguard.metrics import AttributeScore, FunctionalityScore, LabelScore, MembershipScore, score_labels
from splitguard.metrics.score import relative_to_blind
from splitguard.metrics.stats import Interval, bootstrap
from splitguard.seeding import numpy_generator

__all__ = ["Half", "image_halves", "label_halves", "positions", "scored_halves"]

Array = npt.NDArray[Any]
#: What the choosing half says, what the other half says, and that one's 95 % interval over victims.
Half = dict[str, float | None]
Scored = LabelScore | AttributeScore | MembershipScore | FunctionalityScore


def positions(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which of ``count`` victims choose, and which report: two halves drawn from the seed, the same for every attack.

    A single victim does both.
    """
    order = torch.from_numpy(numpy_generator(seed, "halves", count).permutation(count))
    return (order, order) if count < 2 else (order[: count // 2], order[count // 2 :])


def image_halves(per_victim: Mapping[str, Tensor], seed: int) -> dict[str, Half]:
    """Leakage by SSIM, and the rate of re-identification by each distance, on both halves.

    Args:
        per_victim: ``ssim``, ``blind`` and, where known, ``reid_pixel`` and ``reid_lpips``, each (N,).
        seed: draws the halves and the intervals.
    """
    choose, report = positions(len(per_victim["ssim"]), seed)

    def leakage(chosen: Tensor) -> float | None:
        return relative_to_blind(float(per_victim["ssim"][chosen].mean()), float(per_victim["blind"][chosen].mean()))

    def rows(ssim: Array, blind: Array) -> Array:
        base = blind.mean(axis=1)
        return np.where(base < 1, (ssim.mean(axis=1) - base) / np.maximum(1 - base, 1e-9), np.nan)

    draws = numpy_generator(seed, "half interval")
    interval = bootstrap(rows, per_victim["ssim"][report].numpy(), per_victim["blind"][report].numpy(), generator=draws)
    out = {"leakage": _half(leakage(choose), leakage(report), interval)}
    for name in ("reid_pixel", "reid_lpips"):
        if name in per_victim and len(per_victim[name]) > 1:
            hits = per_victim[name].double()
            interval = bootstrap(lambda h: h.mean(axis=1), hits[report].numpy(), generator=draws)
            out[name] = _half(float(hits[choose].mean()), float(hits[report].mean()), interval)
    return out


def label_halves(
    guess: Tensor | None, scores: Tensor | None, truth: Tensor, *, classes: int, prior: Tensor, seed: int
) -> dict[str, Half]:
    """Leakage of labels on both halves; the arguments are those of `score_labels`."""

    def score(chosen: Tensor) -> LabelScore:
        labels = None if guess is None else guess[chosen]
        return score_labels(
            labels, None if scores is None else scores[chosen], truth[chosen], classes=classes, prior=prior, seed=seed
        )

    return scored_halves(score, len(truth), seed)


def scored_halves(score: Callable[[Tensor], Scored], count: int, seed: int) -> dict[str, Half]:
    """Leakage on both halves of ``count`` rows, by whatever ``score`` makes of the rows at these positions."""
    first, second = (score(chosen) for chosen in positions(count, seed))
    half: Half = {
        "choose": first.leakage,
        "report": second.leakage,
        "low": second.leakage_low,
        "high": second.leakage_high,
    }
    return {"leakage": half}


def _half(choose: float | None, report: float | None, interval: Interval | None) -> Half:
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return {"choose": choose, "report": report, "low": low, "high": high}
