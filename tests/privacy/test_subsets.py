# SPDX-License-Identifier: Apache-2.0
"""Subset selection is exactly epsilon-DP, draws what it says, and its beliefs are Bayes' rule."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare

from splitguard.errors import BadSetting
from splitguard.privacy import keep_probability
from splitguard.privacy.subsets import SubsetResponse
from splitguard.seeding import generator

CASES = [(2, 0.5), (5, 0.3), (6, 1.0), (4, 3.0)]


def law(response: SubsetResponse) -> tuple[list[tuple[int, ...]], torch.Tensor]:
    """All answers, and (k, answers) float64: their probabilities by the formula of the docstring."""
    k, d, e = response.words, response.size, math.exp(response.epsilon)
    answers = list(itertools.combinations(range(k), d))
    weight = torch.tensor([[e if w in s else 1.0 for s in answers] for w in range(k)], dtype=torch.float64)
    z = math.comb(k - 1, d - 1) * e + math.comb(k - 1, d)
    return answers, weight / z


@pytest.mark.parametrize(("words", "epsilon"), CASES)
def test_no_answer_is_likelier_than_epsilon_allows_and_the_limit_is_reached(words: int, epsilon: float) -> None:
    _, table = law(SubsetResponse(words, epsilon))
    torch.testing.assert_close(table.sum(1), torch.ones(words, dtype=torch.float64))
    ratio = float((table.amax(0) / table.amin(0)).max())
    assert math.log(ratio) == pytest.approx(epsilon, rel=1e-12)


@pytest.mark.parametrize(("words", "epsilon"), CASES)
def test_draws_follow_the_law(words: int, epsilon: float) -> None:
    response, n = SubsetResponse(words, epsilon), 20_000
    answers, table = law(response)
    number = {answer: i for i, answer in enumerate(answers)}
    for word in range(words):
        drawn = response.draw(torch.full((n,), word), generator(0, "draw", word))
        counts = torch.zeros(len(answers))
        for answer in drawn.tolist():
            counts[number[tuple(answer)]] += 1
        if len(answers) > 1:
            assert chisquare(counts.numpy(), n * table[word].numpy()).pvalue > 1e-4


@pytest.mark.parametrize(("words", "epsilon"), CASES)
def test_beliefs_are_bayes_rule_and_their_mean_is_exact(words: int, epsilon: float) -> None:
    response = SubsetResponse(words, epsilon)
    answers, table = law(response)
    posterior = (table / table.sum(0)).T
    belief = response.belief(torch.tensor(answers))
    torch.testing.assert_close(belief, posterior)
    torch.testing.assert_close(response.expected_belief(), table @ belief)


def test_one_word_answers_are_randomised_response() -> None:
    response = SubsetResponse(10, 4.0)
    assert response.size == 1
    assert response.keep == pytest.approx(keep_probability(epsilon=4.0, classes=10), rel=1e-12)


@pytest.mark.parametrize(("words", "epsilon"), [(1, 1.0), (4, 0.0), (4, -1.0), (4, 31.0)])
def test_what_no_answer_can_be_drawn_for_is_refused(words: int, epsilon: float) -> None:
    with pytest.raises(BadSetting, match="subset selection needs"):
        SubsetResponse(words, epsilon)
