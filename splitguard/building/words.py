# SPDX-License-Identifier: Apache-2.0
"""A codebook: the few rows that stand for all others, and which of them stands for a given one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from splitguard.errors import BadSetting

__all__ = ["Book", "axes_of"]


@dataclass(frozen=True)
class Book:
    """The words (k, D) of one stretch, and the coordinates A^T (D, Q) in which the nearest one is found."""

    words: Tensor
    axes: Tensor

    @classmethod
    def of(cls, rows: Tensor, axes: Tensor, count: int) -> Book:
        """The mean rows of the clusters of k-means in the coordinates A.

        Raises:
            BadSetting: if fewer than ``count`` rows differ in those coordinates. The number of words is part of the
                mechanism, so it is not lowered here.
        """
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it says that rows coincide
            found = KMeans(n_clusters=count, n_init=4, random_state=0).fit((rows @ axes).numpy())
        own = torch.nn.functional.one_hot(torch.from_numpy(found.labels_).long(), count).to(rows)
        sizes = own.sum(0)
        if (distinct := int((sizes > 0).sum())) < count:
            raise BadSetting(f"{distinct} distinct rows among {len(rows)} make no {count} words; give fewer words")
        return cls(own.T @ rows / sizes[:, None], axes)

    def nearest(self, rows: Tensor) -> Tensor:
        """(N,): the word of each row (N, D)."""
        return torch.cdist(rows @ self.axes, self.words @ self.axes).argmin(1)


def axes_of(rows: Tensor, labels: Tensor | None) -> Tensor:
    """(D, Q) float64: the identity without labels, else the directions in which the classes lie apart."""
    if labels is None or len(labels.unique()) < 2 or len(rows) <= len(labels.unique()):
        return torch.eye(rows.shape[1], dtype=torch.float64)
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    found = LinearDiscriminantAnalysis().fit(rows.numpy(), labels.numpy())
    scalings: Tensor = torch.from_numpy(found.scalings_)[:, : len(found.classes_) - 1]
    return scalings
