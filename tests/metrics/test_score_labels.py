# SPDX-License-Identifier: Apache-2.0
"""Scores of labels and of choices: exact nulls, scikit-learn, SciPy, and what is missing stays empty."""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor

from splitguard import seeding
from splitguard.errors import BadSetting
from splitguard.metrics import score_attributes, score_choices, score_labels, score_membership
from splitguard.metrics.stats import Array, bootstrap

HALVES = torch.tensor([0.5, 0.5])
BINARY = torch.tensor([0, 1] * 20)


def test_labels_known_score_one_and_constant_ones_zero() -> None:
    ten = torch.arange(50) % 10
    for scores, truth, prior in (
        (None, ten, torch.ones(10)),
        (None, BINARY, HALVES),
        (BINARY.double(), BINARY, HALVES),
        (torch.nn.functional.one_hot(BINARY).float(), BINARY, HALVES),
    ):
        s = score_labels(truth, scores, truth, classes=len(prior), prior=prior)
        assert (s.label_accuracy, s.balanced_accuracy, s.leakage, s.leakage_low, s.leakage_high) == (1, 1, 1, 1, 1)
    for truth, prior in ((ten, torch.ones(10)), (BINARY, HALVES)):
        s = score_labels(torch.ones_like(truth), None, truth, classes=len(prior), prior=prior)
        assert s.leakage == pytest.approx(0, abs=1e-12)
        assert s.leakage_low == pytest.approx(0, abs=1e-12)
        assert s.leakage_high == pytest.approx(0, abs=1e-12)
    tied = score_labels(None, torch.zeros(40, 2), BINARY, classes=2, prior=HALVES)
    assert (tied.leakage, tied.leakage_low, tied.leakage_high, tied.label_tpr) == (0, 0, 0, 0)


def test_what_better_names_could_reach_stands_beside_the_accuracy_and_moves_nothing_else() -> None:
    truth = torch.arange(60) % 3
    misnamed = score_labels((truth + 1) % 3, None, truth, classes=3, prior=torch.ones(3))
    assert (misnamed.label_accuracy, misnamed.label_cluster_accuracy_oracle) == (0, 1)
    assert misnamed.leakage == pytest.approx(-0.5)
    constant = score_labels(torch.zeros_like(truth), None, truth, classes=3, prior=torch.ones(3))
    assert constant.label_cluster_accuracy_oracle == pytest.approx(1 / 3)


def test_binary_scores_are_judged_by_auc_with_the_sign_fixed() -> None:
    gen = seeding.generator(0, "test scores")
    logits = torch.randn(40, 2, generator=gen)
    logits[:, 1] += BINARY
    s = score_labels(None, logits, BINARY, classes=2, prior=HALVES)
    area = roc_auc_score(BINARY.numpy(), (logits[:, 1] - logits[:, 0]).double().numpy())
    assert s.label_auc == pytest.approx(area)
    assert s.leakage == pytest.approx(2 * area - 1)
    assert s.label_accuracy == pytest.approx(float((logits.argmax(1) == BINARY).double().mean()))
    assert s.leakage_low is not None
    assert s.leakage_high is not None
    assert s.leakage_low < 2 * area - 1 < s.leakage_high
    turned = score_labels(None, -logits, BINARY, classes=2, prior=HALVES)
    assert turned.leakage == pytest.approx(1 - 2 * area)
    alone = score_labels(None, logits[:, 1] - logits[:, 0], BINARY, classes=2, prior=HALVES)
    assert (alone.label_auc, alone.label_accuracy) == (s.label_auc, s.label_accuracy)


def test_more_classes_are_judged_by_balanced_accuracy() -> None:
    gen = seeding.generator(0, "test guesses")
    truth = torch.tensor([0] * 30 + [1] * 15 + [2] * 15)
    guess = torch.where(torch.rand(60, generator=gen) < 0.6, truth, torch.randint(3, (60,), generator=gen))
    s = score_labels(guess, None, truth, classes=3, prior=torch.tensor([2.0, 1.0, 1.0]))
    assert s.leakage == pytest.approx(balanced_accuracy_score(truth.numpy(), guess.numpy(), adjusted=True))
    assert s.leakage_low is not None
    assert s.leakage_high is not None
    assert s.leakage is not None
    assert s.leakage_low < s.leakage < s.leakage_high
    assert (s.label_auc, s.label_tpr, s.blind, s.n) == (None, None, 0.5, 60)


def test_a_constant_guess_gains_nothing_where_classes_are_absent() -> None:
    truth = torch.tensor([3, 3, 7, 7, 7])
    s = score_labels(torch.full((5,), 7), None, truth, classes=10, prior=torch.ones(10))
    assert s.leakage == pytest.approx(0, abs=1e-12)


def test_victims_of_one_class_leave_leakage_empty() -> None:
    truth = torch.ones(6, dtype=torch.int64)
    for scores in (None, torch.arange(6.0)):
        s = score_labels(truth, scores, truth, classes=2, prior=HALVES)
        assert (s.balanced_accuracy, s.label_auc, s.label_tpr) == (None, None, None)
        assert (s.leakage, s.leakage_low, s.leakage_high) == (None, None, None)
        assert (s.label_accuracy, s.blind) == (1, 0.5)


def test_the_blind_label_is_the_priors_majority() -> None:
    truth = torch.tensor([1, 1, 1, 0])
    assert score_labels(truth, None, truth, classes=2, prior=torch.tensor([9, 1])).blind == 0.25


def test_without_a_prior_there_is_no_blind_guess_but_leakage_against_chance() -> None:
    unknown, truth = torch.full((2,), torch.nan), torch.tensor([1, 1, 1, 0])
    for scores in (None, truth.double()):
        s = score_labels(truth, scores, truth, classes=2, prior=unknown)
        assert s == dataclasses.replace(score_labels(truth, scores, truth, classes=2, prior=HALVES), blind=None)
        assert (s.blind, s.leakage) == (None, 1)
        assert (s.label_accuracy, s.balanced_accuracy, s.label_auc) == (1, 1, None if scores is None else 1)
    with pytest.raises(BadSetting, match="prior must be"):
        score_labels(truth, None, truth, classes=2, prior=torch.tensor([0.5, torch.nan]))


def auc_by_ranks(scores: Array, truth: Array) -> Array:
    """Of each row of (R, N), ranked anew."""
    ones = truth == 1
    positives = ones.sum(axis=1)
    pairs = positives * (ones.shape[1] - positives)
    above = (scipy.stats.rankdata(scores, axis=1) * ones).sum(axis=1) - positives * (positives + 1) / 2
    return np.where(pairs > 0, above / np.maximum(pairs, 1), np.nan)


def recall_by_class(guess: Array, truth: Array) -> tuple[Array, Array]:
    """The balanced accuracy of each row of (R, N), class by class, and how many classes are in it."""
    of = [truth == label for label in np.unique(truth)]
    recalls = sum(((guess == truth) & own).sum(axis=1) / np.maximum(own.sum(axis=1), 1) for own in of)
    present = np.stack([own.any(axis=1) for own in of]).sum(axis=0)
    return np.where(present > 1, recalls / np.maximum(present, 1), np.nan), present


def assert_ends(found: object, statistic: object, *samples: Tensor, stream: str) -> None:
    """The interval is that of the slow statistic on the same draws."""
    slow = bootstrap(statistic, *(s.numpy() for s in samples), generator=seeding.numpy_generator(0, stream))  # type: ignore[arg-type]
    assert slow is not None
    ends = (found.leakage_low, found.leakage_high)  # type: ignore[attr-defined]
    assert ends == pytest.approx((slow.low, slow.high), abs=1e-12)


@pytest.mark.parametrize("n", [5, 61, 300])
@pytest.mark.parametrize("step", [0.0, 0.5, 10.0])
def test_intervals_of_auc_are_those_of_ranking_each_resample(n: int, step: float) -> None:
    """With no ties, some, and almost nothing else."""
    gen = seeding.generator(0, "auc ends", n)
    truth = torch.arange(n) % 2
    margin = torch.randn(n, generator=gen, dtype=torch.float64) + truth
    margin = margin if step == 0 else (margin / step).round() * step

    def leakage(scores: Array, truth: Array) -> Array:
        return np.asarray(2 * auc_by_ranks(scores, truth) - 1)

    assert_ends(
        score_labels(None, margin, truth, classes=2, prior=HALVES), leakage, margin, truth, stream="label score"
    )
    assert_ends(score_membership(margin, truth == 1), leakage, margin, truth, stream="membership score")


@pytest.mark.parametrize(("n", "classes"), [(6, 3), (61, 2), (200, 10), (40, 30)])
def test_intervals_of_balanced_accuracy_are_those_of_a_loop_over_classes(n: int, classes: int) -> None:
    gen = seeding.generator(0, "recall ends", n)
    truth, guess, blind = (torch.randint(classes, (n,), generator=gen) for _ in range(3))
    guess = torch.where(torch.rand(n, generator=gen) < 0.4, truth, guess)

    def leakage(guess: Array, truth: Array) -> Array:
        reached, present = recall_by_class(guess, truth)
        chance = 1 / np.maximum(present, 2)
        return np.asarray((reached - chance) / (1 - chance))

    def above(guess: Array, blind: Array, truth: Array) -> Array:
        reached, base = recall_by_class(guess, truth)[0], recall_by_class(blind, truth)[0]
        return np.where(1 - base > 1e-9, (reached - base) / np.maximum(1 - base, 1e-9), np.nan)

    labels = score_labels(guess, None, truth, classes=classes, prior=torch.ones(classes))
    assert_ends(labels, leakage, guess, truth, stream="label score")
    attributes = score_attributes(guess, None, truth, blind=blind, values=classes)
    assert_ends(attributes, above, guess, blind, truth, stream="attribute score")


def test_resamples_are_not_ranked_anew() -> None:
    """Which takes several times as long."""
    truth = torch.arange(2000) % 2
    margin = torch.randn(2000, generator=seeding.generator(0, "fast"), dtype=torch.float64)
    began = time.process_time()
    score_labels(None, margin, truth, classes=2, prior=HALVES)
    between = time.process_time()
    bootstrap(auc_by_ranks, margin.numpy(), truth.numpy(), generator=np.random.default_rng(0))
    assert between - began < (time.process_time() - between) / 2


@pytest.mark.parametrize(
    ("guess", "scores", "classes", "message"),
    [
        (None, None, 2, "got neither"),
        (torch.tensor([0, 1, 2, 0]), None, 2, r"guessed labels must lie in 0\.\.1; got values from 0 to 2"),
        (torch.tensor([0, 1]), None, 2, "one length; got 2 and 4"),
        (None, torch.zeros(4, 3), 2, r"scores must be \(4, 2\).*got \(4, 3\)"),
        (None, torch.zeros(4), 3, r"scores must be \(4, 3\)"),
        (None, torch.full((4, 2), torch.nan), 2, "finite"),
        (torch.zeros(4, dtype=torch.int64), None, 1, "classes=1"),
    ],
)
def test_labels_that_cannot_be_scored_are_refused(
    guess: Tensor | None, scores: Tensor | None, classes: int, message: str
) -> None:
    with pytest.raises(BadSetting, match=message):
        score_labels(guess, scores, torch.tensor([0, 1, 1, 0]), classes=classes, prior=torch.ones(classes))


def test_the_prior_must_fit_the_classes() -> None:
    with pytest.raises(BadSetting, match="each of the 2 classes; got 3"):
        score_labels(BINARY, None, BINARY, classes=2, prior=torch.ones(3))


def test_choices_are_exact() -> None:
    truth = torch.arange(64)
    all_right = score_choices(truth, truth, n_candidates=64)
    assert (all_right.accuracy, all_right.leakage, all_right.leakage_high) == (1, 1, 1)
    constant = score_choices(torch.zeros(64, dtype=torch.int64), truth, n_candidates=64)
    assert (constant.leakage, constant.chance, constant.n) == (0, 1 / 64, 64)
    half = score_choices(torch.tensor([0, 1, 0, 0]), torch.tensor([0, 1, 1, 2]), n_candidates=4)
    exact = scipy.stats.binomtest(2, 4).proportion_ci(0.95, "exact")
    assert half.leakage == pytest.approx((0.5 - 0.25) / 0.75)
    assert (half.accuracy_low, half.accuracy_high) == pytest.approx((exact.low, exact.high))
    assert (half.leakage_low, half.leakage_high) == pytest.approx(
        ((exact.low - 0.25) / 0.75, (exact.high - 0.25) / 0.75)
    )
    assert json.loads(json.dumps(half.as_dict()))["accuracy"] == 0.5


def test_choices_that_cannot_be_scored_are_refused() -> None:
    one = torch.tensor([0])
    with pytest.raises(BadSetting, match="at least 2 candidates; got 1"):
        score_choices(one, one, n_candidates=1)
    with pytest.raises(BadSetting, match=r"guessed candidates must lie in 0\.\.3"):
        score_choices(torch.tensor([4]), one, n_candidates=4)
