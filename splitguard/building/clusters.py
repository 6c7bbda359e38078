# SPDX-License-Identifier: Apache-2.0
"""Clusters of rows, and their names: which cluster is which class, from the few rows whose label is known."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from splitguard.errors import BadSetting

__all__ = ["cluster_scores", "k_means", "named", "top_directions"]

#: Further directions that the subspace iteration carries along, and how often it multiplies.
EXTRA, ROUNDS = 8, 12


def top_directions(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(D, count): the right singular vectors of the largest singular values of ``rows`` (N, D), largest first.

    By subspace iteration from a random start, whose error falls as (s_{count+9} / s_count)^24 with s the singular
    values: thousands of wide rows cost seconds, where a full decomposition takes minutes. Fewer than ``count`` come
    back where N or D is smaller. The sign of each is arbitrary.

    Source: Halko, Martinsson, Tropp, Finding structure with randomness, SIAM Review 2011, algorithm 4.4.
    """
    width = min(count + EXTRA, *rows.shape)
    basis = torch.randn(rows.shape[1], width, generator=generator, dtype=rows.dtype).to(rows)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(rows.T @ torch.linalg.qr(rows @ basis).Q).Q
    inner = torch.linalg.svd(rows @ basis, full_matrices=False).Vh
    out: Tensor = (basis @ inner.T)[:, :count]
    return out


def k_means(rows: Tensor, count: int, generator: torch.Generator, *, starts: int = 10) -> Tensor:
    """(count, D): the centres of ``rows`` (N, D), best of ``starts`` runs of Lloyd's algorithm by the squared distance.

    Args:
        rows: in float64.
        count: of centres. Where fewer rows differ, some centres coincide.
        generator: draws the starts, by k-means++.
        starts: at least 1.

    Raises:
        BadSetting: if there are fewer rows than centres.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(rows) < count:
        raise BadSetting(f"{count} clusters need at least {count} rows; got {len(rows)}. Record a larger context.")
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it says that rows coincide
        found = KMeans(count, n_init=starts, random_state=seed).fit(rows.cpu().numpy())
    return torch.from_numpy(found.cluster_centers_).to(rows)


def named(distances: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(C,): the class of each of C = ``classes`` clusters, each class once: the least squared distance in all.

    The Hungarian method on the mean squared distance of each class's known rows to each centre. Only known labels
    enter; a class without any takes a cluster that is left over.

    Args:
        distances: (A, C), of the known rows to the centres, squared.
        labels: (A,), their labels.
        classes: C.
    """
    from scipy.optimize import linear_sum_assignment

    labels = labels.to(distances.device)
    counts = torch.bincount(labels, minlength=classes)
    cost = distances.new_zeros(classes, classes).index_add(0, labels, distances) / counts.clamp(min=1)[:, None]
    rows, clusters = linear_sum_assignment(cost.cpu().numpy())
    out = torch.empty(classes, dtype=torch.int64)
    out[torch.from_numpy(clusters)] = torch.from_numpy(rows)
    return out


def cluster_scores(victims: Tensor, known: Tensor, labels: Tensor, classes: int, centres: Tensor) -> Tensor:
    """(N, K): minus the squared distance of each victim (N, D) to the cluster named after each class.

    Args:
        victims: (N, D).
        known: (A, D), the rows whose labels are known.
        labels: (A,), those labels.
        classes: K.
        centres: (K, D).
    """
    name = named(torch.cdist(known, centres).square(), labels, classes)
    return -torch.cdist(victims, centres[name.argsort()]).square()
