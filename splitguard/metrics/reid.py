# SPDX-License-Identifier: Apache-2.0
"""Re-identification: does the guess point at its victim, and not at another one?"""

from __future__ import annotations

import torch
from torch import Tensor

from splitguard.errors import BadSetting

__all__ = ["pixel_distances", "squared_distances", "top1_hits"]

_TIE = 1e-9  # of the largest squared length; float64 leaves about 1e-15


def top1_hits(distances: Tensor) -> Tensor:
    """For each guess, 1 if its own victim is the nearest of the gallery, 0 if not, 1/k if it is one of k equally near.

    Args:
        distances: (N, M), M at least N; row i is guess i, column i its victim, columns from N on further images.

    Returns:
        (N,) float64 in [0, 1]; the mean is the top-1 rate. If the gallery is the N victims alone, guesses that are all
        alike have the mean 1/N, which is chance, whatever the distances are.

    Raises:
        BadSetting: for more guesses than columns, or distances that are not finite.
    """
    if distances.ndim != 2 or not 1 <= distances.shape[0] <= distances.shape[1]:
        raise BadSetting(f"distances must be (N, M) with 1 <= N <= M; got shape {tuple(distances.shape)}")
    if not bool(torch.isfinite(distances).all()):
        raise BadSetting("distances must be finite; got NaN or infinity")
    d = distances.double()
    nearest = d <= d.min(dim=1, keepdim=True).values + _TIE * d.abs().max()
    return nearest.diagonal().double() / nearest.sum(dim=1)


def pixel_distances(guess: Tensor, gallery: Tensor) -> Tensor:
    """(N, M) float64: mean squared error of each guess (N, C, H, W) to each image of the gallery (M, C, H, W)."""
    return squared_distances(guess.flatten(1), gallery.flatten(1)) / guess[0].numel()


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) float64, not negative: squared Euclidean distances of the rows of a, (N, D), and b, (M, D)."""
    a, b = a.double(), b.double()
    squared = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * a @ b.T
    return squared.clamp(min=0)
