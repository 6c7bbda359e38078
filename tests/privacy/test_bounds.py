# SPDX-License-Identifier: Apache-2.0
"""The candidate game against closed forms, played games, and each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr

from splitguard.errors import BadSetting
from splitguard.privacy import candidate_bound, candidate_orthogonal
from splitguard.seeding import generator


def play(rows: torch.Tensor, noise: float, releases: int, games: int) -> float:
    """The share of games won by naming the candidate closest to all releases together."""
    draws = generator(0, "game", releases)
    truth = torch.randint(len(rows), (games,), generator=draws)
    distance = torch.zeros(games, len(rows))
    for _ in range(releases):
        distance += torch.cdist(rows[truth] + noise * torch.randn(games, rows.shape[1], generator=draws), rows) ** 2
    return float((distance.argmin(1) == truth).double().mean())


@pytest.mark.parametrize(
    ("signal", "measured", "exact", "bound"),
    [(1, 0.110, 0.1105, 0.124), (2, 0.375, 0.3813, 0.439), (3, 0.732, 0.7288, 0.801), (4, 0.934, 0.9341, 0.968)],
)
def test_the_table_for_64_candidates(signal: float, measured: float, exact: float, bound: float) -> None:
    """Measured are 4,000 games or so: the exact share lies within two of their standard errors."""
    attack = candidate_orthogonal(candidates=64, sigma=10 / signal, clip=1, releases=100)
    assert attack == pytest.approx(exact, abs=6e-5)
    assert abs(attack - measured) < 2 * math.sqrt(exact * (1 - exact) / 4000)
    limit = candidate_bound(candidates=64, sigma=10 / signal, clip=1, releases=100)
    assert limit == pytest.approx(bound, abs=6e-4)


@pytest.mark.parametrize(("noise", "releases"), [(0.5, 1), (1.0, 4), (1.0, 9)])
def test_the_matching_attack_wins_as_often_as_computed(noise: float, releases: int) -> None:
    games, clip = 40_000, 1.0
    won = play(clip * torch.eye(64), noise, releases, games)
    exact = candidate_orthogonal(candidates=64, sigma=noise, clip=clip, releases=releases)
    assert abs(won - exact) < 4 * math.sqrt(exact * (1 - exact) / games)
    bound = candidate_bound(candidates=64, sigma=noise, clip=clip, releases=releases)
    assert won < bound - 4 * math.sqrt(bound * (1 - bound) / games)


def test_two_opposite_candidates_meet_the_bound() -> None:
    """Won with probability Phi(C / sigma), which is the bound for N = 2."""
    bound = candidate_bound(candidates=2, sigma=1.5, clip=1.2, releases=3)
    assert bound == pytest.approx(float(ndtr(math.sqrt(3) * 1.2 / 1.5)), rel=1e-14)
    games = 40_000
    won = play(torch.tensor([[1.2], [-1.2]]), 1.5, 3, games)
    assert abs(won - bound) < 4 * math.sqrt(bound * (1 - bound) / games)


@given(st.floats(1e-3, 20))
def test_two_orthogonal_candidates_have_a_closed_form(signal: float) -> None:
    assert candidate_orthogonal(candidates=2, sigma=1, clip=signal) == pytest.approx(
        float(ndtr(signal / math.sqrt(2))), rel=1e-9
    )


@given(st.integers(2, 10**15), st.floats(-4, 3))
def test_chance_attack_bound_certainty(candidates: int, power: float) -> None:
    signal = 10.0**power
    attack = candidate_orthogonal(candidates=candidates, sigma=1, clip=signal)
    bound = candidate_bound(candidates=candidates, sigma=1, clip=signal)
    assert (1 - 1e-8) / candidates < attack <= bound * (1 + 1e-9) <= 1 + 1e-9


@given(st.integers(2, 1000), st.floats(0.1, 5), st.floats(1.01, 2))
def test_more_noise_helps_and_more_candidates_help(candidates: int, noise: float, factor: float) -> None:
    for chance in (candidate_bound, candidate_orthogonal):
        here = chance(candidates=candidates, sigma=noise, clip=1)
        assert chance(candidates=candidates, sigma=noise * factor, clip=1) <= here * (1 + 1e-9)
        assert chance(candidates=candidates + 1, sigma=noise, clip=1) <= here * (1 + 1e-9)


@pytest.mark.parametrize("chance", [candidate_bound, candidate_orthogonal])
def test_null_and_sure_cases(chance: Callable[..., float]) -> None:
    game = {"candidates": 64, "clip": 1.0}
    assert chance(**game, sigma=1e12) == pytest.approx(1 / 64, rel=1e-9)
    assert chance(**game, sigma=0.0) == 1.0
    assert chance(**game, sigma=[2.0] * 5) == pytest.approx(chance(**game, sigma=2.0, releases=5), rel=1e-12)
    with pytest.raises(BadSetting, match="candidates must be a whole number of at least 2; got 1"):
        chance(candidates=1, clip=1.0, sigma=1.0)
    with pytest.raises(BadSetting, match="sigma must be at least 0"):
        chance(**game, sigma=-1.0)
