# SPDX-License-Identifier: Apache-2.0
"""Randomised response: known numbers, its exact epsilon, and that no private answer is more often right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from splitguard.errors import BadSetting
from splitguard.privacy import epsilon_of_response, keep_probability, response


@pytest.mark.parametrize(
    ("epsilon", "classes", "kept"),
    [(1, 10, 0.232), (2, 10, 0.451), (4, 10, 0.858), (1, 2, 0.731), (2, 2, 0.881), (4, 2, 0.982), (3, 1, 1.0)],
)
def test_the_known_probabilities(epsilon: float, classes: int, kept: float) -> None:
    assert keep_probability(epsilon=epsilon, classes=classes) == pytest.approx(kept, abs=5e-4)


@pytest.mark.parametrize("epsilon", [1e-9, 0.3, 2.0, 30.0])
@pytest.mark.parametrize("classes", [1, 2, 7, 100])
def test_with_a_uniform_prior_it_is_plain_randomised_response(epsilon: float, classes: int) -> None:
    table = response(torch.full((classes,), 3.0), epsilon=epsilon)
    total = math.exp(epsilon) + classes - 1
    plain = torch.full((classes, classes), 1 / total, dtype=torch.float64)
    plain.fill_diagonal_(math.exp(epsilon) / total)
    torch.testing.assert_close(table, plain, rtol=1e-12, atol=0)


@given(
    prior=st.lists(st.floats(0, 1), min_size=1, max_size=8).filter(lambda p: sum(p) > 0.01),
    epsilon=st.floats(0.01, 30),
)
def test_its_epsilon_is_exact_whatever_the_prior(prior: list[float], epsilon: float) -> None:
    table = response(prior, epsilon=epsilon)
    torch.testing.assert_close(table.sum(1), torch.ones(len(prior), dtype=torch.float64), rtol=1e-12, atol=0)
    answers = int((table > 0).any(0).sum())
    assert epsilon_of_response(table) == pytest.approx(epsilon if answers > 1 else 0.0, rel=1e-9, abs=1e-12)


def most_often_right(prior: Tensor, epsilon: float) -> float:
    """The largest P(answer = label) of any (epsilon, 0)-private table, by linear programming."""
    k = len(prior)
    pairs = [(y, other, a) for y in range(k) for other in range(k) for a in range(k) if y != other]
    bounds = np.zeros((len(pairs), k * k))
    for row, (y, other, a) in enumerate(pairs):
        bounds[row, y * k + a], bounds[row, other * k + a] = 1.0, -math.exp(epsilon)
    sums = np.kron(np.eye(k), np.ones(k))
    goal = np.diag(prior.numpy()).flatten()
    found = linprog(-goal, A_ub=bounds, b_ub=np.zeros(len(pairs)), A_eq=sums, b_eq=np.ones(k), bounds=(0, 1))
    assert found.success
    return float(-found.fun)


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 2.5])
@pytest.mark.parametrize("prior", [[0.25] * 4, [0.7, 0.1, 0.1, 0.1], [0.4, 0.35, 0.2, 0.05], [0.5, 0.5, 0], [0, 3, 1]])
def test_no_private_answer_is_more_often_right(prior: list[float], epsilon: float) -> None:
    weights = torch.tensor(prior, dtype=torch.float64) / sum(prior)
    right = float((weights * response(prior, epsilon=epsilon).diagonal()).sum())
    assert right == pytest.approx(most_often_right(weights, epsilon), abs=1e-7)


def test_an_answer_that_rules_a_label_out_has_no_epsilon() -> None:
    assert epsilon_of_response(torch.eye(3)) == math.inf
    assert epsilon_of_response(torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == 0.0


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 30.1, math.inf, math.nan])
def test_an_epsilon_that_cannot_be_drawn_is_refused(epsilon: float) -> None:
    with pytest.raises(BadSetting, match="above 0 and up to 30"):
        response([1, 1], epsilon=epsilon)


@pytest.mark.parametrize("prior", [[], [0.0, 0.0], [1.0, -1.0], [math.nan, 1.0], [[1.0]]])
def test_a_prior_that_is_none_is_refused(prior: list[float]) -> None:
    with pytest.raises(BadSetting, match="one weight a class, at least 0 and not all 0"):
        response(prior, epsilon=1.0)


def test_no_classes_are_refused() -> None:
    with pytest.raises(BadSetting, match="at least one class; got 0"):
        keep_probability(epsilon=1.0, classes=0)
