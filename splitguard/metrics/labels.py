# SPDX-License-Identifier: Apache-2.0
"""How well labels were inferred: accuracy, balanced accuracy, AUC, true positives at few false ones, and chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitguard.errors import BadSetting

__all__ = [
    "accuracy",
    "auc",
    "auc_of_batches",
    "auc_rows",
    "balanced_accuracy",
    "balanced_accuracy_rows",
    "cells",
    "check_labels",
    "label_cluster_accuracy",
    "majority_accuracy",
    "tpr_at_fpr",
]

Array = npt.NDArray[Any]


def check_labels(labels: Tensor, *, classes: int | None = None, what: str = "labels") -> None:
    """Refuses what is not (N,), of whole numbers, N at least 1, and, where ``classes`` is given, in 0..classes-1.

    Raises:
        BadSetting: with what was wanted and what came.
    """
    if labels.ndim != 1 or len(labels) == 0 or labels.is_floating_point() or labels.is_complex():
        raise BadSetting(f"{what} must be (N,) whole numbers; got shape {tuple(labels.shape)} of {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if classes is not None and not (low >= 0 and high < classes):
        raise BadSetting(f"{what} must lie in 0..{classes - 1}; got values from {low} to {high}")


def accuracy(guess: Tensor, truth: Tensor) -> float:
    """The share of labels guessed right.

    Args:
        guess: (N,) whole numbers.
        truth: (N,) whole numbers.

    Raises:
        BadSetting: for other shapes or types.
    """
    _check_pair(guess, truth)
    return float((guess.cpu() == truth.cpu()).double().mean())


def balanced_accuracy(guess: Tensor, truth: Tensor) -> float | None:
    """The mean, over the classes among the truth, of the share of that class guessed right.

    Args:
        guess: (N,) whole numbers.
        truth: (N,) whole numbers.

    Returns:
        In [0, 1]; one constant guess gives at most 1 / (number of classes among the truth). None if the truth has
        one class only: any value would be that of a constant guess.

    Raises:
        BadSetting: for other shapes or types.
    """
    _check_pair(guess, truth)
    truth = truth.cpu()
    return _number(balanced_accuracy_rows(cells(truth, guess.cpu() == truth)[None])[0][0])


def cells(values: Tensor, marks: Tensor) -> Array:
    """(N,): twice the place of a value among the distinct ones, ascending, plus 1 where it is marked.

    It is all that the metrics of rows need of N victims, and no more work for 2,000 resamples than to count.
    """
    return np.asarray(2 * np.unique(values.cpu().numpy(), return_inverse=True)[1] + marks.cpu().numpy())


def _counted(drawn: Array) -> tuple[Array, Array]:
    """How many cells of (R, N) are unmarked and how many are marked, each (R, number of places)."""
    width = 2 * (int(drawn.max()) // 2 + 1)
    places = drawn + width * np.arange(len(drawn))[:, None]
    table = np.bincount(places.ravel(), minlength=width * len(drawn)).reshape(len(drawn), -1, 2)
    return table[:, :, 0], table[:, :, 1]


def balanced_accuracy_rows(drawn: Array) -> tuple[Array, Array]:
    """`balanced_accuracy` of each row of (R, N), NaN where it is missing; and the number of classes in each row.

    Args:
        drawn: of ``cells(truth, guess == truth)``.
    """
    wrong, right = _counted(drawn)
    count = wrong + right
    recalls = sum((right / np.maximum(count, 1)).T, np.zeros(len(drawn)))
    present = (count > 0).sum(axis=1)
    return np.where(present > 1, recalls / np.maximum(present, 1), np.nan), present


def auc(scores: Tensor, truth: Tensor) -> float | None:
    """The area under the ROC curve: ``P(score of a 1 > score of a 0) + P(equal) / 2``.

    Args:
        scores: (N,), finite; larger means class 1. The sign is the caller's, fixed before the truth is known.
        truth: (N,), 0 or 1.

    Returns:
        In [0, 1]; 1/2 is chance, below it the sign was wrong. None if the truth has one class only.

    Raises:
        BadSetting: for other shapes, labels, or scores that are not finite.
    """
    _check_binary(scores, truth)
    return _number(auc_rows(cells(scores.detach().double(), truth)[None])[0])


def auc_rows(drawn: Array) -> Array:
    """`auc` of each row of (R, N), as the share of pairs (Mann and Whitney); NaN where it is missing.

    Args:
        drawn: of ``cells(scores, truth)``.
    """
    zeros, ones = _counted(drawn)
    twice_above = (ones * (2 * zeros.cumsum(axis=1) - zeros)).sum(axis=1)
    pairs = zeros.sum(axis=1) * ones.sum(axis=1)
    return np.where(pairs > 0, twice_above / 2 / np.maximum(pairs, 1), np.nan)


def auc_of_batches(scores: Tensor, truth: Tensor, batches: Tensor, *, quantile: float = 0.95) -> float | None:
    """The ``quantile`` over batches of ``1/2 + |AUC - 1/2|``: how much the unlucky batches show, whatever the sign.

    Chance is not 1/2: of a batch with n0 zeros and n1 ones the AUC of scores that say nothing has a standard deviation
    of ``sqrt((n0 + n1 + 1) / (12 n0 n1))``, and the .95-quantile lies about twice that above 1/2. Compare like batches.

    Args:
        scores: (N,), finite.
        truth: (N,), 0 or 1.
        batches: (N,) whole numbers, those of one batch alike.
        quantile: in [0, 1], between batches linear.

    Returns:
        In [1/2, 1]; batches of one class are left out. None if fewer than two are left.

    Raises:
        BadSetting: as `auc`, or for batches that are not (N,).

    Source: Li et al., Label leakage and protection in two-party split learning, ICLR 2022, and the notebooks of its
    code, which report it over all batches of a training.
    """
    check_labels(batches, what="batches")
    if len(batches) != len(truth):
        raise BadSetting(f"batches must be one a label; got {len(batches)} for {len(truth)}")
    found = [auc(scores[own], truth[own]) for own in (batches == batch for batch in torch.unique(batches))]
    away = [abs(area - 0.5) for area in found if area is not None]
    return 0.5 + float(np.quantile(away, quantile)) if len(away) > 1 else None


def tpr_at_fpr(scores: Tensor, truth: Tensor, *, fpr: float = 0.01) -> float | None:
    """The largest share of ones found by a threshold that takes at most the share ``fpr`` of zeros for ones.

    Args:
        scores: (N,), finite; larger means class 1.
        truth: (N,), 0 or 1.
        fpr: in [0, 1). With fewer than 1 / fpr zeros no false positive is allowed at all. No interpolation.

    Returns:
        In [0, 1]; None if the truth has one class only.

    Raises:
        BadSetting: for other shapes, labels, scores that are not finite, or ``fpr`` out of range.

    Source: Carlini et al., Membership inference attacks from first principles, S&P 2022.
    """
    _check_binary(scores, truth)
    if not 0 <= fpr < 1:
        raise BadSetting(f"fpr must lie in [0, 1); got {fpr}")
    values, ones = scores.detach().double().cpu(), truth.cpu() == 1
    zeros = values[~ones].sort(descending=True).values
    if len(zeros) in (0, len(values)):
        return None
    # at most this many zeros may lie above the threshold; the slack keeps 0.29 * 100 from counting as 28
    allowed = int(fpr * len(zeros) + 1e-9)
    return float((values[ones] > zeros[allowed]).double().mean())


def majority_accuracy(truth: Tensor, prior: Tensor) -> float:
    """The accuracy on ``truth`` of always guessing the class that is most frequent by ``prior``: the blind guess.

    Args:
        truth: (N,), in 0..K-1.
        prior: (K,), not negative, some of it positive; frequencies or counts that the attacker may know (never counted
            from ``truth``). Where several classes are the most frequent, the mean over guessing each.

    Raises:
        BadSetting: for other shapes, values or labels.
    """
    frequency = prior.detach().double().cpu()
    if frequency.ndim != 1 or not bool((frequency >= 0).all()) or not 0 < float(frequency.sum()) < float("inf"):
        raise BadSetting(f"prior must be (K,) class frequencies, not negative, some positive; got {prior}")
    check_labels(truth, classes=len(frequency), what="truth")
    most = torch.nonzero(frequency >= frequency.max() * (1 - 1e-9)).flatten()
    return float(torch.isin(truth.cpu(), most).double().mean() / len(most))


def label_cluster_accuracy(clusters: Tensor, truth: Tensor) -> float:
    """ORACLE: the accuracy of clusters under the best naming of clusters by classes, found *with the true labels*.

    The Hungarian method picks the one-to-one naming with the most hits. An attacker has no true labels: this is an
    upper limit for a label inference, not the result of one, and whatever shows it must say "oracle".

    Args:
        clusters: (N,) whole numbers, names without meaning. Clusters beyond the number of classes hit nothing.
        truth: (N,) whole numbers.

    Raises:
        BadSetting: for other shapes or types.
    """
    from scipy.optimize import linear_sum_assignment

    _check_pair(clusters, truth)
    cluster_names, cluster = torch.unique(clusters.cpu(), return_inverse=True)
    class_names, label = torch.unique(truth.cpu(), return_inverse=True)
    cells = torch.bincount(cluster * len(class_names) + label, minlength=len(cluster_names) * len(class_names))
    table = cells.view(len(cluster_names), len(class_names)).numpy()
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(truth))


def _check_pair(guess: Tensor, truth: Tensor) -> None:
    check_labels(guess, what="guessed labels")
    check_labels(truth, what="truth")
    if len(guess) != len(truth):
        raise BadSetting(f"guess and truth must have one length; got {len(guess)} and {len(truth)}")


def _check_binary(scores: Tensor, truth: Tensor) -> None:
    check_labels(truth, classes=2, what="truth of a binary score")
    if scores.shape != truth.shape:
        raise BadSetting(f"scores must be (N,) like the truth; got {tuple(scores.shape)} and {tuple(truth.shape)}")
    if not bool(torch.isfinite(scores).all()):
        raise BadSetting("scores must be finite; got NaN or infinity")


def _number(value: float) -> float | None:
    """None for NaN: what is missing is never a number."""
    return None if np.isnan(value) else float(value)
