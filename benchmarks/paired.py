# SPDX-License-Identifier: Apache-2.0
"""Two attacks on the same images, compared image by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from splitguard.metrics import mse, paired_difference, psnr, ssim

__all__ = ["METRICS", "compared", "no_worse"]

Metric = Callable[[Tensor, Tensor], Tensor]
#: Of images (N, C, H, W) in [0, 1], to (N,); and the sign by which more is better.
METRICS: Mapping[str, tuple[Metric, int]] = {"psnr": (psnr, 1), "ssim": (ssim, 1), "mse": (mse, -1)}


def compared(ours: Tensor, reference: Tensor, truth: Tensor, *, together: int = 1) -> dict[str, dict[str, Any]]:
    """Of each metric the two means, what ours gains on average, and the one-sided lower 95 % limit of that.

    Student's t over images, paired; a gain in mean squared error is what it falls by. ``n`` is the number of images,
    or of their means where so many are taken ``together``, one after the other, as those that share a network are.
    """
    out: dict[str, dict[str, Any]] = {}
    for name, (metric, sign) in METRICS.items():
        own, other = (metric(guess, truth).double().view(-1, together).mean(1) for guess in (ours, reference))
        gain = paired_difference((sign * own).tolist(), (sign * other).tolist())
        out[name] = {
            "ours": float(own.mean()),
            "reference": float(other.mean()),
            "gain": gain.mean,
            "gain_at_least": gain.at_least,
            "n": gain.n,
        }
    return out


def no_worse(found: Mapping[str, Mapping[str, Any]], metric: str) -> bool:
    """Whether the gain is at least 0 by its limit."""
    least = found[metric]["gain_at_least"]
    return least is not None and bool(least >= 0)
