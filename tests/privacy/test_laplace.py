# SPDX-License-Identifier: Apache-2.0
"""The pure accounting against the densities themselves, and the candidate bound against played games."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import laplace

from splitguard import privacy
from splitguard.errors import BadSetting
from splitguard.privacy import (
    accuracy_bound_pure,
    candidate_bound_pure,
    epsilon_laplace,
    epsilon_of_response,
    response,
    scale_laplace,
)
from splitguard.seeding import generator


@pytest.mark.parametrize(("adjacency", "change"), [("replace-one", 2.0), ("zero-out", 1.0)])
@pytest.mark.parametrize("releases", [1, 7])
def test_epsilon_is_the_largest_log_ratio_of_the_densities(
    adjacency: privacy.Adjacency, change: float, releases: int
) -> None:
    clip, scale = 1.5, 0.8
    outputs = np.linspace(-40, 40, 4001)
    worst = 0.0
    for share in np.linspace(0, 1, 11):  # the change may be spread over two coordinates, in L1
        moved = [share * change * clip, (1 - share) * change * clip]
        worst = max(
            worst, sum(np.max(laplace.logpdf(outputs, m, scale) - laplace.logpdf(outputs, 0, scale)) for m in moved)
        )
    told = epsilon_laplace(scale=scale, clip=clip, releases=releases, adjacency=adjacency)
    assert told == pytest.approx(releases * worst, rel=1e-9)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(1, 10_000))
def test_the_scale_spends_what_was_asked_for_and_no_more(epsilon: float, clip: float, releases: int) -> None:
    scale = scale_laplace(epsilon=epsilon, clip=clip, releases=releases)
    spent = epsilon_laplace(scale=scale, clip=clip, releases=releases)
    assert epsilon * (1 - 1e-15 * 4) <= spent <= epsilon  # a few ulps below, never above


def test_no_noise_is_no_privacy() -> None:
    assert epsilon_laplace(scale=0.0, clip=1.0) == math.inf


def test_randomised_response_meets_the_candidate_bound() -> None:
    for candidates, epsilon in ((2, 0.5), (64, 4.0)):
        truth = math.exp(epsilon) / (math.exp(epsilon) + candidates - 1)
        assert candidate_bound_pure(candidates=candidates, epsilon=epsilon) == pytest.approx(truth, rel=1e-14)
    assert candidate_bound_pure(candidates=10, epsilon=0.0) == pytest.approx(0.1)
    assert candidate_bound_pure(candidates=10, epsilon=math.inf) == 1.0
    assert candidate_bound_pure(candidates=2, epsilon=800.0) == 1.0  # nothing overflows


def bayes(messages: torch.Tensor) -> float:
    """The accuracy of naming the likeliest class; P(m | k) of each class, (K, M), classes equally likely."""
    return float(messages.amax(0).sum()) / len(messages)


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 0.5), (10, 2.0), (10, 8.0)])
def test_randomised_response_on_the_class_meets_the_accuracy_bound(classes: int, epsilon: float) -> None:
    told = response([1] * classes, epsilon=epsilon)
    assert bayes(told) == pytest.approx(accuracy_bound_pure(classes=classes, epsilon=epsilon), rel=1e-12)


@given(st.integers(2, 6), st.integers(2, 12), st.floats(0.05, 6.0), st.integers(0, 10**6))
def test_rows_of_a_class_that_differ_and_other_answers_stay_below_the_accuracy_bound(
    classes: int, words: int, epsilon: float, seed: int
) -> None:
    """Words by class at random, most of a class on few words, answered by RRWithPrior, which may merge words."""
    draws = generator(seed, "accuracy bound")
    sharp = torch.rand(classes, words, generator=draws, dtype=torch.float64) ** 8
    shares = sharp / sharp.sum(1, keepdim=True)
    table = response(torch.rand(words, generator=draws, dtype=torch.float64) + 0.01, epsilon=epsilon)
    assert epsilon_of_response(table) <= epsilon + 1e-9
    assert bayes(shares @ table) <= accuracy_bound_pure(classes=classes, epsilon=epsilon) + 1e-12


def test_the_accuracy_bound_ends_at_chance_and_at_one() -> None:
    assert accuracy_bound_pure(classes=4, epsilon=0.0) == 0.25
    assert accuracy_bound_pure(classes=4, epsilon=math.inf) == 1.0


@pytest.mark.parametrize(("scale", "releases"), [(2.0, 1), (2.0, 4)])
def test_the_likeliest_candidate_wins_less_often_than_the_bound(scale: float, releases: int) -> None:
    """Eight corners of norm C, each a signed axis; the score is the joint Laplace likelihood."""
    games, clip = 20_000, 1.0
    rows = clip * torch.cat([torch.eye(4), -torch.eye(4)])
    draws = generator(0, "laplace game", releases)
    truth = torch.randint(8, (games,), generator=draws)
    far = torch.zeros(games, 8)
    for _ in range(releases):
        one, two = torch.empty(2, games, 4).exponential_(generator=draws)
        far += ((rows[truth] + scale * (one - two))[:, None] - rows).abs().sum(2)
    won = float((far.argmin(1) == truth).double().mean())
    epsilon = epsilon_laplace(scale=scale, clip=clip, releases=releases)
    bound = candidate_bound_pure(candidates=8, epsilon=epsilon)
    assert 1.5 / 8 < won < bound - 4 * math.sqrt(bound * (1 - bound) / games)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: epsilon_laplace(scale=-1.0, clip=1.0), "scale must be at least 0"),
        (lambda: epsilon_laplace(scale=math.nan, clip=1.0), "scale must be at least 0"),
        (lambda: epsilon_laplace(scale=1.0, clip=0.0), "clip must be positive"),
        (lambda: epsilon_laplace(scale=1.0, clip=1.0, releases=0), "releases must be a whole number"),
        (lambda: scale_laplace(epsilon=0.0, clip=1.0), "epsilon must be positive"),
        (lambda: scale_laplace(epsilon=math.inf, clip=1.0), "epsilon must be positive"),
        (lambda: candidate_bound_pure(candidates=1, epsilon=1.0), "candidates must be a whole number"),
        (lambda: candidate_bound_pure(candidates=4, epsilon=-1.0), "epsilon must be at least 0"),
        (lambda: accuracy_bound_pure(classes=1, epsilon=1.0), "classes must be a whole number"),
        (lambda: accuracy_bound_pure(classes=4, epsilon=math.nan), "epsilon must be at least 0"),
    ],
)
def test_what_lies_outside_its_range_is_refused(call: Any, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        call()
