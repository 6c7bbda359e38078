# SPDX-License-Identifier: Apache-2.0
"""Label metrics against scikit-learn, brute force and hand-made cases."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve
from torch import Tensor

from splitguard.errors import BadSetting
from splitguard.metrics import (
    accuracy,
    auc,
    auc_of_batches,
    balanced_accuracy,
    label_cluster_accuracy,
    majority_accuracy,
    tpr_at_fpr,
)

# Few score values, so that there are ties; both classes present.
scored = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=2, max_size=40).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def tensors(rows: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    scores, truth = zip(*rows, strict=True)
    return torch.tensor(scores, dtype=torch.float32), torch.tensor(truth)


@given(scored)
def test_auc_is_scikit_learns(rows: list[tuple[int, int]]) -> None:
    scores, truth = tensors(rows)
    assert auc(scores, truth) == pytest.approx(roc_auc_score(truth.numpy(), scores.numpy()), abs=1e-12)
    turned = auc(-scores, truth)
    assert turned is not None
    assert turned + float(auc(scores, truth) or 0) == pytest.approx(1)


def test_auc_takes_scores_in_half_precision() -> None:
    scores, truth = torch.tensor([0.5, 0.25, 1.0]), torch.tensor([1, 0, 0])
    for dtype in (torch.bfloat16, torch.float16):
        assert auc(scores.to(dtype), truth) == auc(scores, truth) == 0.5


def test_auc_of_ties_is_a_half_and_of_one_class_is_missing() -> None:
    truth = torch.tensor([0, 1, 1, 0, 1])
    assert auc(torch.zeros(5), truth) == 0.5
    assert auc(truth.float(), truth) == 1
    assert auc(-truth.float(), truth) == 0  # the sign is not guessed
    assert auc(torch.arange(3.0), torch.ones(3, dtype=torch.int64)) is None
    assert tpr_at_fpr(torch.arange(3.0), torch.ones(3, dtype=torch.int64)) is None
    assert tpr_at_fpr(torch.arange(3.0), torch.zeros(3, dtype=torch.int64)) is None


@given(scored, st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 0.9]))
def test_tpr_at_fpr_is_the_best_point_of_scikit_learns_curve(rows: list[tuple[int, int]], fpr: float) -> None:
    scores, truth = tensors(rows)
    false, true, _ = roc_curve(truth.numpy(), scores.numpy(), drop_intermediate=False)
    assert tpr_at_fpr(scores, truth, fpr=fpr) == pytest.approx(max(true[false <= fpr + 1e-12]))


def test_tpr_at_fpr_allows_exactly_the_share_of_zeros() -> None:
    zeros, ones = torch.arange(100.0), torch.tensor([98.5, 97.5, 200.0, -1.0])
    scores, truth = torch.cat([zeros, ones]), torch.tensor([0] * 100 + [1] * 4)
    assert tpr_at_fpr(scores, truth, fpr=0.0) == 0.25
    assert tpr_at_fpr(scores, truth, fpr=0.01) == 0.5  # 98.5 lets one zero in a hundred through
    assert tpr_at_fpr(scores, truth, fpr=0.02) == 0.75
    assert 0.29 * 100 < 29  # in floating point; 29 zeros are still allowed
    assert tpr_at_fpr(torch.cat([zeros, torch.tensor([70.5])]), torch.tensor([0] * 100 + [1]), fpr=0.29) == 1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_accuracies_are_scikit_learns(rows: list[tuple[int, int]]) -> None:
    guess, truth = (torch.tensor(column) for column in zip(*rows, strict=True))
    assert accuracy(guess, truth) == pytest.approx(sum(a == b for a, b in rows) / len(rows))
    if len(set(truth.tolist())) == 1:
        assert balanced_accuracy(guess, truth) is None
    else:
        with warnings.catch_warnings():  # it tells about guesses of a class that the truth lacks
            warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
            expected = balanced_accuracy_score(truth.numpy(), guess.numpy())
        assert balanced_accuracy(guess, truth) == pytest.approx(expected)


def test_a_constant_guess_has_the_balanced_accuracy_of_chance() -> None:
    truth = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    assert accuracy(torch.zeros_like(truth), truth) == 0.9
    assert balanced_accuracy(torch.zeros_like(truth), truth) == pytest.approx(1 / 3)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=25))
def test_cluster_accuracy_is_the_best_of_all_namings(rows: list[tuple[int, int]]) -> None:
    clusters, truth = zip(*rows, strict=True)
    best = max(sum(naming[c] == t for c, t in rows) / len(rows) for naming in itertools.permutations(range(4)))
    assert label_cluster_accuracy(torch.tensor(clusters), torch.tensor(truth)) == pytest.approx(best)


def test_cluster_names_mean_nothing_and_surplus_clusters_hit_nothing() -> None:
    truth = torch.tensor([0, 0, 1, 1, 2, 2])
    assert label_cluster_accuracy(torch.tensor([7, 7, -3, -3, 0, 0]), truth) == 1
    assert label_cluster_accuracy(torch.arange(6), truth) == 0.5
    assert label_cluster_accuracy(torch.zeros(6, dtype=torch.int64), truth) == pytest.approx(1 / 3)
    assert (label_cluster_accuracy.__doc__ or "").startswith("ORACLE")


def test_the_majority_comes_from_the_prior_and_not_from_the_truth() -> None:
    truth = torch.tensor([1, 1, 1, 0])
    assert majority_accuracy(truth, torch.tensor([0.9, 0.1])) == 0.25
    assert majority_accuracy(truth, torch.tensor([10, 30])) == 0.75
    assert majority_accuracy(truth, torch.tensor([0.5, 0.5])) == 0.5  # a tie: the mean of both
    assert majority_accuracy(truth, torch.tensor([1.0, 1.0, 0.0])) == 0.5


@pytest.mark.parametrize(
    ("guess", "message"),
    [
        (torch.zeros(3), "whole numbers; got shape"),
        (torch.zeros(3, 1, dtype=torch.int64), r"\(N,\)"),
        (torch.zeros(0, dtype=torch.int64), r"\(0,\)"),
        (torch.zeros(2, dtype=torch.int64), "one length; got 2 and 3"),
    ],
)
def test_what_are_no_labels_is_refused(guess: Tensor, message: str) -> None:
    truth = torch.tensor([0, 1, 1])
    for metric in (accuracy, balanced_accuracy, label_cluster_accuracy):
        with pytest.raises(BadSetting, match=message):
            metric(guess, truth)


def test_what_is_no_binary_score_is_refused() -> None:
    truth = torch.tensor([0, 1, 1])
    for metric in (auc, tpr_at_fpr):
        with pytest.raises(BadSetting, match=r"in 0\.\.1; got values from 0 to 2"):
            metric(torch.zeros(3), torch.tensor([0, 1, 2]))
        with pytest.raises(BadSetting, match=r"scores must be \(N,\)"):
            metric(torch.zeros(3, 2), truth)
        with pytest.raises(BadSetting, match="finite"):
            metric(torch.tensor([0, 1, torch.nan]), truth)
    with pytest.raises(BadSetting, match=r"\[0, 1\); got 1"):
        tpr_at_fpr(torch.zeros(3), truth, fpr=1)


@pytest.mark.parametrize(
    "prior", [torch.zeros(2), torch.tensor([1.0, -1.0]), torch.ones(2, 2), torch.tensor([1, torch.nan])]
)
def test_what_is_no_prior_is_refused(prior: Tensor) -> None:
    with pytest.raises(BadSetting, match="prior must be"):
        majority_accuracy(torch.tensor([0, 1]), prior)


def test_the_auc_of_batches_is_a_quantile_over_each_batchs_distance_from_chance() -> None:
    scores, truth, batches = [], [], []
    wanted = []
    gen = torch.Generator().manual_seed(0)
    for batch, shift in enumerate((3.0, -2.0, 0.0, 1.0, 0.5, -0.2)):
        labels = torch.tensor([0] * 20 + [1] * 5)
        values = torch.randn(25, generator=gen, dtype=torch.float64) + shift * labels + 100 * batch  # no common scale
        wanted.append(0.5 + abs(roc_auc_score(labels.numpy(), values.numpy()) - 0.5))
        scores.append(values)
        truth.append(labels)
        batches.append(torch.full((25,), 7 * batch))
    mixed = torch.randperm(150, generator=gen)
    s, t, b = (torch.cat(parts)[mixed] for parts in (scores, truth, batches))
    assert auc_of_batches(s, t, b) == pytest.approx(np.quantile(wanted, 0.95))
    assert auc_of_batches(s, t, b, quantile=0) == pytest.approx(min(wanted))
    assert auc_of_batches(-s, t, b) == pytest.approx(auc_of_batches(s, t, b))
    one_class = torch.cat([b, torch.full((4,), 99)])  # a batch without a one says nothing
    longer = torch.cat([s, torch.zeros(4)]), torch.cat([t, torch.zeros(4, dtype=torch.int64)])
    assert auc_of_batches(*longer, one_class) == pytest.approx(np.quantile(wanted, 0.95))
    assert auc_of_batches(s[b == 0], t[b == 0], b[b == 0]) is None
    with pytest.raises(BadSetting, match="one a label; got 3 for 150"):
        auc_of_batches(s, t, b[:3])
