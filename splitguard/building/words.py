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
    """(K, Q) float64: the identity without labels, else the directions in which the classes lie apart.

        B A = W A diag(lambda),    A^T W A = I,    W = D^(1/2) ((1 - s) R + s r I) D^(1/2)

    with B the scatter of the class means, D the variances of the rows' coordinates around the mean of their class, R
    the scatter around it in units of D, r its mean diagonal, 1 where no variance is 0, and s in 0..1 as Ledoit and Wolf
    estimate it: few rows in many dimensions lie apart in directions that mean nothing, and the fewer they are the less
    W says of how coordinates go together. Rows are (N, K), Q is the number of classes less 1, at most K.

    Source: Fisher's linear discriminant; Ledoit, Wolf, Journal of Multivariate Analysis 2004.
    """
    if labels is None or len(labels.unique()) < 2 or len(rows) <= len(labels.unique()):
        return torch.eye(rows.shape[1], dtype=torch.float64)
    from scipy.linalg import eigh
    from sklearn.covariance import ledoit_wolf

    own = torch.nn.functional.one_hot(labels.unique(return_inverse=True)[1]).to(rows)
    sizes = own.sum(0)
    means = own.T @ rows / sizes[:, None]
    around = rows - own @ means
    unit = around.square().mean(0).sqrt()
    typical = unit.square().mean().sqrt() if bool((unit > 0).any()) else torch.ones(()).to(rows)
    unit = torch.where(unit > 0, unit, typical)
    within = ledoit_wolf((around / unit).numpy(), assume_centered=True)[0]
    if not within.trace() > 0:
        within = torch.eye(len(unit)).numpy()  # each class is one point: all directions alike
    apart = (means - rows.mean(0)) / unit * (sizes[:, None] / len(rows)).sqrt()
    _, vectors = eigh((apart.T @ apart).numpy(), within)
    return torch.from_numpy(vectors[:, ::-1].copy())[:, : len(sizes) - 1] / unit[:, None]
