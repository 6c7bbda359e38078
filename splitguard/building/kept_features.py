# SPDX-License-Identifier: Apache-2.0
"""What the server's layers made of each row when it was sent last, and which of these lie next to each other."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["KeptFeatures", "nearest"]

#: Bytes that are kept.
MEMORY = 64 * 2**20


class KeptFeatures:
    """Features (*cut2) by row, those of the latest time; once 64 MiB are full, no further row is taken up.

    Attributes:
        rows: in main memory.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Tensor] = {}

    def add(self, ids: Tensor, features: Tensor) -> None:
        """``features`` (N, *cut2) of the rows ``ids`` (N,)."""
        most = MEMORY // max(features[0].nbytes, 1)
        for row, made in zip(ids.tolist(), features.detach().cpu(), strict=True):
            if row in self.rows or len(self.rows) < most:
                self.rows[row] = made.clone()

    def of(self, ids: Tensor, own: Tensor) -> Tensor:
        """(M, *cut2): those of the rows ``ids`` (N,), ``own`` (N, *cut2) where none was kept, then all others."""
        asked = {row: self.rows.get(row, made) for row, made in zip(ids.tolist(), own, strict=True)}
        return torch.stack([made.to(own) for made in (asked | self.rows).values()])


def nearest(features: Tensor, first: int, count: int) -> Tensor:
    """(first, count): the nearest of all rows of ``features`` (N, ...), in Euclidean distance, to each of the first."""
    # Not at the top of the file: it takes a second, and whoever lists attacks would wait for it.
    from sklearn.neighbors import NearestNeighbors

    flat = features.flatten(1).cpu().numpy()
    found = NearestNeighbors(n_neighbors=count).fit(flat).kneighbors(flat[:first], return_distance=False)
    return torch.from_numpy(found).to(features.device)
